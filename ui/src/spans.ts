// From events to what was on the accelerator when: one lane for each model, one span for each state of an instance.
import type { Happening, Instance, Model, Phases, Request } from "./state";

export type Kind = "load" | "ready" | "drain" | "release" | "parked" | "failed" | "wait";
export interface Span { kind: Kind; from: number; to: number; text: string; swap?: Swap; open?: boolean }
export interface Lane { id: string; model: string; workspace: string; spans: Span[]; last: number }
/** A switch. `handed` is when the accelerator went from one model to the other. */
export interface Swap {
  at: number; workspace: string; from: string[]; to: string; reason: string; waiting: number; handed: number; phases?: Phases; outcome?: string;
}
export interface Picture { lanes: Lane[]; swaps: Swap[] }

export const laneId = (workspace: string, model: string) => `${workspace}\n${model}`;

/** Return lanes, and the switches between them. Spans that go on are open, and end at `now`. */
export function pictureOf(events: readonly Happening[], running: readonly Instance[], now: number): Picture {
  const lanes = new Map<string, Lane>(), swaps: Swap[] = [];
  const ready = new Map<string, number>(), parked = new Map<string, number>();
  const told = new Map<string, Swap>(), leaving = new Map<string, Swap>(); // switches that go on, by the model that comes, and that goes

  const add = (workspace: string, model: string, kind: Kind, from: number, to: number, text: string, swap?: Swap, open = false) => {
    const id = laneId(workspace, model);
    let lane = lanes.get(id);
    if (!lane) lanes.set(id, (lane = { id, model, workspace, spans: [], last: 0 }));
    if (to < from) return;
    lane.spans.push({ kind, from, to, text, ...(swap && { swap }), ...(open && { open }) });
    lane.last = Math.max(lane.last, to);
  };
  for (const { at, type, subject, workspace, data } of events) {
    const id: string = data.instance ?? "", took = 1000 * (data.seconds ?? 0), lane = laneId(workspace, subject);
    switch (type) {
      case "switch.started": {
        const swap = { at, workspace, from: data.from, to: data.to, reason: data.reason, waiting: data.waiting, handed: at };
        told.set(laneId(workspace, data.to), swap);
        for (const name of swap.from) leaving.set(laneId(workspace, name), swap);
        swaps.push(swap);
        break;
      }
      case "model.ready":
      case "model.woken": {
        const since = parked.get(id), swap = told.get(lane);
        if (since !== undefined) add(workspace, subject, "parked", since, at - took, "parked");
        parked.delete(id);
        add(workspace, subject, "load", at - took, at, type === "model.ready" ? "load" : "wake", swap);
        if (swap) swap.handed = at - took;
        ready.set(id, at);
        break;
      }
      case "model.released":
      case "model.parked": {
        const stop = at - took, since = ready.get(id), swap = leaving.get(lane);
        const drain = swap && since !== undefined && swap.at > since && swap.at < stop ? swap.at : stop;
        if (since !== undefined) add(workspace, subject, "ready", since, drain, "resident");
        ready.delete(id);
        if (drain < stop) add(workspace, subject, "drain", drain, stop, "drain", swap);
        add(workspace, subject, "release", stop, at, type === "model.parked" ? "put to sleep" : `release: ${data.reason}`, swap);
        if (type === "model.parked") parked.set(id, at);
        else parked.delete(id);
        break;
      }
      case "model.failed": {
        const since = ready.get(id), swap = told.get(lane);
        if (since !== undefined) add(workspace, subject, "ready", since, at, "resident");
        ready.delete(id);
        add(workspace, subject, "failed", swap?.at ?? at, at, data.message, swap);
        break;
      }
      case "switch.completed": case "switch.failed": case "switch.cancelled": {
        const swap = told.get(laneId(workspace, data.to));
        if (swap) {
          swap.phases = data.phases;
          swap.outcome = type.slice(7);
          told.delete(laneId(workspace, data.to));
          for (const name of swap.from) leaving.delete(laneId(workspace, name));
        }
        break;
      }
    }
  }
  for (const each of running) {
    const step = each.story[each.story.length - 1];
    if (!step) continue;
    const since = ready.get(each.instance), from = Date.parse(step.at), lane = laneId(each.workspace, each.model);
    if (/^ready$/i.test(each.state)) add(each.workspace, each.model, "ready", since ?? from, now, "resident", undefined, true);
    else {
      const kind: Kind = /load|wak/i.test(each.state) ? "load" : /drain|quiesc/i.test(each.state) ? "drain" : "release";
      if (since !== undefined) add(each.workspace, each.model, "ready", since, from, "resident");
      add(each.workspace, each.model, kind, from, now, each.state.toLowerCase(), told.get(lane) ?? leaving.get(lane), true);
      if (kind === "load" && told.has(lane)) told.get(lane)!.handed = from;
    }
  }
  for (const lane of lanes.values()) lane.spans.sort((a, b) => a.from - b.from);
  return { lanes: [...lanes.values()], swaps };
}

type Pairs = Map<string, [number, number][]>;

/** Return when each model had requests that waited, and such that were in flight: sorted pairs that do not overlap. What goes on ends at infinity. */
export function timesOf(requests: readonly Request[]): { waits: Pairs; busy: Pairs } {
  const waits: Pairs = new Map(), busy: Pairs = new Map();
  const add = (to: Pairs, model: string, pair: [number, number]) => { to.get(model)?.push(pair) ?? to.set(model, [pair]); };
  for (const each of requests) {
    const arrived = Date.parse(each.arrived_at), end = each.state === "ended" ? arrived + 1000 * each.seconds : Infinity;
    const sent = each.waited === null ? end : arrived + 1000 * each.waited;
    if (sent - arrived > 20) add(waits, each.wanted ?? each.model, [arrived, sent]);
    if (each.waited !== null) add(busy, each.model, [sent, end]);
  }
  return { waits: joined(waits), busy: joined(busy) };
}

function joined(times: Pairs): Pairs {
  return new Map([...times].map(([model, pairs]) => {
    const found: [number, number][] = [];
    for (const pair of pairs.sort((a, b) => a[0] - b[0])) {
      const last = found[found.length - 1];
      if (last && pair[0] <= last[1]) last[1] = Math.max(last[1], pair[1]);
      else found.push(pair);
    }
    return [model, found];
  }));
}

/** Add to the lanes when requests waited for their models, and a lane for each model that only waits. */
export function withWaits({ lanes, swaps }: Picture, waits: Pairs, models: readonly Model[], now: number): Picture {
  const found = new Map(lanes.map((lane) => [lane.model, lane]));
  for (const [model, pairs] of waits) {
    const spans = pairs.map(([from, to]): Span => ({ kind: "wait", from, to: Math.min(to, now), text: "requests wait", open: to > now }));
    const lane = found.get(model), workspace = models.find((each) => each.id === model)?.workspace ?? "";
    const last = Math.max(lane?.last ?? 0, spans.at(-1)!.to);
    found.set(model, { ...(lane ?? { id: laneId(workspace, model), model, workspace }), last, spans: [...(lane?.spans ?? []), ...spans].sort((a, b) => a.from - b.from) });
  }
  return { lanes: [...found.values()].sort((a, b) => a.workspace.localeCompare(b.workspace) || a.model.localeCompare(b.model)), swaps };
}
