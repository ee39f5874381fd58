const EVERY = 50; // ms between two events
const SMOOTH = 3000; // ms after which an old rate hardly counts

/** Passes progress on, not too often, with a smoothed rate and the time left. */
export function meter(send) {
  let stage = null;
  let sent = 0;
  let mark = null;
  let perSecond;
  return (progress) => {
    const { done, total } = progress;
    const now = performance.now();
    const fresh = progress.stage !== stage || done < mark.done;
    if (fresh) {
      stage = progress.stage;
      mark = { now, done };
      perSecond = undefined;
    } else if (now - mark.now >= 250) {
      const elapsed = now - mark.now;
      const rate = ((done - mark.done) / elapsed) * 1000;
      perSecond = perSecond === undefined ? rate : perSecond + (rate - perSecond) * (1 - Math.exp(-elapsed / SMOOTH));
      mark = { now, done };
    }
    if (!fresh && done !== total && now - sent < EVERY) return;
    sent = now;
    const event = { ...progress };
    if (perSecond !== undefined) {
      event.perSecond = perSecond;
      if (total !== undefined && perSecond > 0) event.secondsLeft = (total - done) / perSecond;
    }
    send(event);
  };
}
