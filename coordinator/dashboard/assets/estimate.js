// What a site that is at work probably does, from the steps of its last answer.

const LATE = 1.5; // times as long as last time, and a few seconds more

// The phase, how far it is in [0, 1] (null: not known), the seconds left (null: not known).
export function estimate(site, now) {
  if (site.phase !== "working") return { phase: site.phase, part: site.phase === "done" ? 1 : null, left: null };
  const total = site.expected.reduce((sum, [, seconds]) => sum + seconds, 0);
  const sends = site.sent !== null;
  if (!total) return { phase: sends ? "uploading" : "working", part: null, left: null };
  const spent = Math.max(now - site.since, 0);
  if (spent > LATE * total + 10) return { phase: "late", part: null, left: null, over: spent - total };
  let before = 0;
  let phase = site.expected.at(-1)[0];
  for (const [name, seconds] of site.expected) {
    before += seconds;
    if (spent < before) {
      phase = name;
      break;
    }
  }
  return { phase: sends ? "uploading" : `≈ ${phase}`, part: Math.min(spent / total, 0.99), left: Math.max(total - spent, 0) };
}

// The seconds that a round still takes, and all rounds: null where not known.
export function timeLeft(sites, now, clock) {
  const working = sites.filter((site) => site.phase === "working").map((site) => estimate(site, clock));
  const known = working.length > 0 && working.every((each) => each.left !== null);
  const round = known ? Math.max(...working.map((each) => each.left)) : null;
  if (round === null || now.round_s === null) return { round, all: null };
  return { round, all: round + (now.rounds - now.round) * now.round_s };
}
