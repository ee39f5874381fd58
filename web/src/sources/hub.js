// Models of a Hugging Face hub, chosen by the core as the native hub chooses them.

import { HalfbyteError } from '../errors.js';
import { HttpFile } from './http.js';

const MAX_INFO = 16 << 20;

/** The files of `hf:owner/repo[/file][@revision]`: `{ source, files }`, pinned to the commit of today. */
export async function hubFiles(core, text, { endpoint = 'https://huggingface.co', token } = {}, signal) {
  const { repo, revision } = JSON.parse(core.hubSource(text));
  const hub = endpoint.replace(/\/+$/, '');
  const options = { headers: token ? { Authorization: `Bearer ${token}` } : {}, refused: refusal({ hub, repo, revision, token }) };

  const api = new HttpFile(`the list of files of ${repo}`, `${hub}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`, options);
  const { sha, siblings } = await json(api, signal);
  if (!Array.isArray(siblings) || !/^[\w-]+$/.test(sha ?? revision)) {
    throw new HalfbyteError('Corrupt', `${api.url}: the hub's answer lists no files; check the endpoint`);
  }
  const commit = sha ?? revision;
  const file = (name) => {
    const { size = null, blobId = '', lfs } = siblings.find(({ rfilename }) => rfilename === name) ?? {};
    const sha256 = (lfs?.sha256 ?? lfs?.oid ?? '').replace(/^sha256:/, '');
    return new HttpFile(name, `${hub}/${repo}/resolve/${commit}/${name.split('/').map(encodeURIComponent).join('/')}`, {
      ...options,
      size: lfs?.size ?? size,
      sha256: /^[0-9a-f]{64}$/i.test(sha256) ? sha256 : null,
      identity: `${commit}/${blobId}`,
    });
  };

  const names = JSON.stringify(siblings.map(({ rfilename }) => rfilename));
  const index = core.hubIndex(text, names);
  const indexText = index && (await (await file(index).whole(MAX_INFO, signal)).text());
  const wanted = JSON.parse(core.hubFiles(text, names, indexText)).files;
  const source = text.replace(/@.*$/, '');
  return { source: `${source}@${commit}`, files: wanted.map(file) };
}

async function json(file, signal) {
  const text = await (await file.whole(MAX_INFO, signal)).text();
  try {
    return JSON.parse(text);
  } catch {
    throw new HalfbyteError('Corrupt', `${file.url}: the hub's answer is no JSON; check the endpoint`);
  }
}

/** What an unfriendly answer of the hub means. */
const refusal = ({ hub, repo, revision, token }) => ({ status, url, headers }) => {
  if (!url.startsWith(hub)) return null; // a file store's
  const code = headers.get('x-error-code');
  const licence = `accept its licence at ${hub}/${repo}`;
  if (status === 403 || (status === 401 && code === 'GatedRepo')) {
    return new HalfbyteError('Network', `${repo} asks for a licence to be accepted; ${licence}, then give a token of that account as hub.token`);
  }
  if (status === 401) {
    return new HalfbyteError('Missing', token
      ? `${repo} does not exist, or the token is not allowed to read it; check the name and hub.token, and ${licence}, if it has one`
      : `${repo} does not exist, or needs a token; check the name; if it is private or gated, ${licence} and give a token as hub.token`);
  }
  if (status !== 404) return null;
  if (code === 'RevisionNotFound') return new HalfbyteError('Missing', `${repo} has no revision ${revision}; name a branch, a tag or a commit`);
  if (url.includes('/resolve/')) return new HalfbyteError('Missing', `${url}: no such file in ${repo} at ${revision}; check the name`);
  return new HalfbyteError('Missing', `no model ${repo} at ${hub}; check the name: hf:owner/repo`);
};
