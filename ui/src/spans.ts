// From events to what was on the accelerator when: one lane for each model, one span for each state of an instance.
import type { Happening, Instance } from "./state";

export type Kind = "load" | "ready" | "drain" | "release" | "parked" | "failed" | "wait";
export interface Span { kind: Kind; from: number; to: number; text: string }
export interface Lane { model: string; workspace: string; spans: Span[]; last: number }

interface Open { from: number; text: string }

const key = (workspace: string, model: string) => `${workspace}\n${model}`;

/** Return the lanes, those with the newest spans first. `now` ends what goes on. */
export function lanesOf(events: readonly Happening[], running: readonly Instance[], now: number): Lane[] {
  const lanes = new Map<string, Lane>();
  const ready = new Map<string, Open>(), parked = new Map<string, Open>(), waits = new Map<string, number>();
  const told = new Map<string, { at: number; from: string[]; reason: string }>(); // the switch to a model that goes on

  const lane = (workspace: string, model: string): Lane => {
    let found = lanes.get(key(workspace, model));
    if (!found) lanes.set(key(workspace, model), (found = { model, workspace, spans: [], last: 0 }));
    return found;
  };
  const add = (workspace: string, model: string, kind: Kind, from: number, to: number, text: string) => {
    const found = lane(workspace, model);
    if (to < from) return;
    found.spans.push({ kind, from, to, text });
    found.last = Math.max(found.last, to);
  };
  const served = (id: string, workspace: string, model: string, until: number) => {
    const open = ready.get(id);
    if (open) add(workspace, model, "ready", open.from, until, open.text);
    ready.delete(id);
  };
  const waited = (workspace: string, model: string, until: number) => {
    const since = waits.get(key(workspace, model));
    if (since !== undefined) add(workspace, model, "wait", since, until, "requests waited");
    waits.delete(key(workspace, model));
  };

  for (const { at, type, subject, workspace, data } of events) {
    const id: string = data.instance ?? "", took = 1000 * (data.seconds ?? 0);
    switch (type) {
      case "switch.requested":
        if (!waits.has(key(workspace, data.model))) waits.set(key(workspace, data.model), at);
        break;
      case "switch.started":
        told.set(key(workspace, data.to), { at, from: data.from, reason: data.reason });
        break;
      case "model.ready":
        add(workspace, subject, "load", at - took, at, "load");
        ready.set(id, { from: at, text: "resident" });
        waited(workspace, subject, at);
        break;
      case "model.woken": {
        const open = parked.get(id);
        if (open) add(workspace, subject, "parked", open.from, at - took, "parked");
        parked.delete(id);
        add(workspace, subject, "load", at - took, at, "wake");
        ready.set(id, { from: at, text: "resident" });
        waited(workspace, subject, at);
        break;
      }
      case "model.released":
      case "model.parked": {
        const stop = at - took;
        const began = [...told.values()].find((each) => each.from.includes(subject))?.at;
        const open = ready.get(id);
        const drain = began !== undefined && open && began > open.from && began < stop ? began : stop;
        served(id, workspace, subject, drain);
        if (drain < stop) add(workspace, subject, "drain", drain, stop, "drain");
        add(workspace, subject, "release", stop, at, type === "model.parked" ? "put to sleep" : `release: ${data.reason}`);
        if (type === "model.parked") parked.set(id, { from: at, text: "parked" });
        else parked.delete(id);
        break;
      }
      case "model.failed": {
        served(id, workspace, subject, at);
        const began = told.get(key(workspace, subject))?.at;
        add(workspace, subject, "failed", began ?? at, at, `${data.reason}: ${data.message}`);
        waited(workspace, subject, at);
        break;
      }
      case "switch.completed": case "switch.failed": case "switch.cancelled":
        told.delete(key(workspace, data.to));
        if (type === "switch.cancelled") waited(workspace, data.to, at);
        break;
    }
  }
  for (const [id, open] of ready) {
    const its = running.find((each) => each.instance === id);
    if (its) add(its.workspace, its.model, "ready", open.from, now, "resident");
  }
  for (const each of running) {
    const step = each.story[each.story.length - 1];
    if (!step) continue;
    const from = Date.parse(step.at);
    const known = ready.has(each.instance);
    if (each.state === "Ready" || each.state === "ready") {
      if (!known) add(each.workspace, each.model, "ready", from, now, "resident");
    } else {
      const kind: Kind = /load|wak/i.test(each.state) ? "load" : /drain|quiesc/i.test(each.state) ? "drain" : "release";
      add(each.workspace, each.model, kind, from, now, each.state.toLowerCase());
    }
  }
  for (const [lane_, since] of waits) {
    const [workspace, model] = lane_.split("\n") as [string, string];
    add(workspace, model, "wait", since, now, "requests wait");
  }
  return [...lanes.values()].sort((a, b) => b.last - a.last || a.model.localeCompare(b.model));
}
