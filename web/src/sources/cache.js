// `Halfbyte.cache`: the models in the browser's storage, as the page sees them.

import { HalfbyteError } from '../errors.js';
import { Folder, lockName, root, unavailable } from './opfs.js';

async function needed() {
  const why = await unavailable();
  if (why) throw new HalfbyteError('Quota', `there is no cache here: ${why}`);
}

/** Runs `work` while nobody else holds the lock; says so if somebody does. */
const alone = (what, id, state, work) => navigator.locks.request(lockName(what, id), { ifAvailable: true }, (lock) => {
  if (!lock) throw new HalfbyteError('Invalid', `${id} is ${state}, here or in another tab: close it there first`);
  return work();
});

async function describe(folder) {
  const manifest = await folder.manifest();
  const files = manifest?.files ?? [];
  const present = await Promise.all(files.map(({ name }) => folder.present(name)));
  const bytes = present.reduce((sum, size) => sum + size, 0);
  return {
    id: folder.id,
    source: manifest?.source ?? folder.id,
    bytes,
    total: files.reduce((sum, { size }, index) => sum + (size ?? present[index]), 0),
    complete: manifest?.complete ?? false,
    files: files.map(({ name }) => name),
    used: manifest?.used ?? 0,
  };
}

export const cache = {
  unavailable,

  async list() {
    if (await unavailable()) return [];
    const models = await Promise.all((await Folder.all()).map(describe));
    return models.sort((a, b) => b.used - a.used);
  },

  async delete(id) {
    await needed();
    const folder = await root();
    await alone('download', id, 'being downloaded', () => alone('use', id, 'in use', async () => {
      try {
        await folder.removeEntry(id, { recursive: true });
      } catch (error) {
        if (error.name === 'NotFoundError') throw new HalfbyteError('Missing', `no model ${id} in the cache: Halfbyte.cache.list() names those that are`);
        throw new HalfbyteError('Invalid', `${id} cannot be deleted now: ${error.message}`);
      }
    }));
  },

  async clear() {
    for (const { id } of await cache.list()) await cache.delete(id);
  },

  async estimate() {
    const { usage = 0, quota = 0 } = (await navigator.storage?.estimate?.()) ?? {};
    return { usage, quota };
  },
};
