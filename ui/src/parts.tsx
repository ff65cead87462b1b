// Small parts that the views share.
import type { ComponentChildren } from "preact";
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { hue, seconds } from "./format";
import { now } from "./state";

export function State({ value }: { value: string }) {
  return <span class={`state s-${value.toLowerCase().replace(" ", "-")}`}>{value.toLowerCase()}</span>;
}

export function Name({ children }: { children: string }) {
  return <a class="name" title={children} href={`#/models/${encodeURIComponent(children)}`} style={{ "--tone": hue(children) }}>{children}</a>;
}

/** The time since then, as it grows. */
export function Since({ at }: { at: string }) {
  return <>{seconds(Math.max(0, (now.value - Date.parse(at)) / 1000))}</>;
}

/** The time until then, as it shrinks. */
export function Until({ at }: { at: string }) {
  const left = (Date.parse(at) - now.value) / 1000;
  return <>{left < 0.5 ? "now" : `in ${seconds(left)}`}</>;
}

/** A part of a whole, as a bar. */
export function Meter({ value, label, tone }: { value: number; label: string; tone?: string }) {
  const part = Math.min(1, Math.max(0, value));
  return (
    <div class={`meter ${tone ?? ""}`} role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(100 * part)}>
      <span style={{ width: `${100 * part}%` }} />
    </div>
  );
}

/** What is shown where there is nothing yet: what it would be, and how it comes about. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="nothing"><b>{title}</b>{children && <p>{children}</p>}</div>;
}

export function Find({ value, set, what }: { value: string; set: (text: string) => void; what: string }) {
  return <input type="search" placeholder={`Find ${what}`} aria-label={`Find ${what}`} value={value} onInput={(event) => set(event.currentTarget.value)} />;
}

export function Choices<T extends string>({ label, all, value, set }: { label: string; all: readonly (readonly [T, string])[]; value: T; set: (one: T) => void }) {
  return (
    <div class="choices" role="group" aria-label={label}>
      {all.map(([one, text]) => <button type="button" aria-pressed={value === one} onClick={() => set(one)}>{text}</button>)}
    </div>
  );
}

export const notices = signal<{ id: number; text: string; bad: boolean }[]>([]);
let next = 1;

export function notify(text: string, bad = false): void {
  const id = next++;
  notices.value = [...notices.value, { id, text, bad }];
  window.setTimeout(() => { notices.value = notices.value.filter((each) => each.id !== id); }, bad ? 12_000 : 5000);
}

/** A button that shows that its work goes on, and says so if it fails. */
export function Action({ run, children, danger, label }: {
  run: () => Promise<unknown>; children: ComponentChildren; danger?: boolean; label?: string;
}) {
  const [busy, setBusy] = useState(false);
  const click = async (event: Event) => {
    event.stopPropagation();
    setBusy(true);
    try { await run(); } catch (error) { notify(error instanceof Error ? error.message : String(error), true); } finally { setBusy(false); }
  };
  return <button type="button" class={danger ? "danger" : ""} disabled={busy} aria-busy={busy} aria-label={label} onClick={click}>{children}</button>;
}

const CHUNK = 8; // rows by which what is made goes on, and which are made beyond what is in sight

/** A long list of rows of one height, of which those in sight are made. */
export function Rows<T>({ rows, height, head, row, empty, label }: {
  rows: readonly T[]; height: number; head: ComponentChildren; row: (each: T) => ComponentChildren; empty: ComponentChildren; label: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [chunk, setChunk] = useState(0);
  const [room, setRoom] = useState(600);
  useEffect(() => {
    const look = new ResizeObserver(() => setRoom(box.current?.clientHeight ?? 600));
    if (box.current) look.observe(box.current);
    return () => look.disconnect();
  }, []);
  const first = Math.min(Math.max(0, (chunk - 1) * CHUNK), Math.max(0, rows.length - 1));
  const last = Math.min(rows.length, (chunk + 2) * CHUNK + Math.ceil(room / height));
  if (rows.length === 0) return <>{empty}</>;
  return (
    <div class="rows" ref={box} tabIndex={0} role="region" aria-label={label}
      onScroll={(event) => setChunk(Math.floor(event.currentTarget.scrollTop / height / CHUNK))}>
      <table style={{ "--row": `${height}px` }}>
        <thead>{head}</thead>
        <tbody>
          {first > 0 && <tr class="gap" style={{ height: `${first * height}px` }} aria-hidden="true"><td colSpan={20} /></tr>}
          {rows.slice(first, last).map(row)}
          {last < rows.length && <tr class="gap" style={{ height: `${(rows.length - last) * height}px` }} aria-hidden="true"><td colSpan={20} /></tr>}
        </tbody>
      </table>
    </div>
  );
}
