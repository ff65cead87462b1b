// Small parts that the views share.
import type { ComponentChildren } from "preact";
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { hue } from "./format";

export function State({ value }: { value: string }) {
  return <span class={`state s-${value.toLowerCase()}`}>{value.toLowerCase()}</span>;
}

export function Name({ children }: { children: string }) {
  return <a class="name" href={`#/models/${encodeURIComponent(children)}`} style={{ "--tone": hue(children) }}>{children}</a>;
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
  const click = async () => {
    setBusy(true);
    try { await run(); } catch (error) { notify(error instanceof Error ? error.message : String(error), true); } finally { setBusy(false); }
  };
  return <button type="button" class={danger ? "danger" : ""} disabled={busy} aria-busy={busy} aria-label={label} onClick={click}>{children}</button>;
}

/** A long list of rows of one height, of which those in sight are made. */
export function Rows<T>({ rows, height, head, row, empty }: {
  rows: readonly T[]; height: number; head: ComponentChildren; row: (each: T) => ComponentChildren; empty: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(600);
  useEffect(() => {
    const look = new ResizeObserver(() => setRoom(box.current?.clientHeight ?? 600));
    if (box.current) look.observe(box.current);
    return () => look.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top / height) - 10), last = Math.min(rows.length, Math.ceil((top + room) / height) + 10);
  return (
    <div class="rows" ref={box} tabIndex={0} role="region" aria-label="List" onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
      <table>
        <thead>{head}</thead>
        <tbody>
          {first > 0 && <tr style={{ height: `${first * height}px` }} aria-hidden="true"><td colSpan={20} /></tr>}
          {rows.slice(first, last).map(row)}
          {last < rows.length && <tr style={{ height: `${(rows.length - last) * height}px` }} aria-hidden="true"><td colSpan={20} /></tr>}
        </tbody>
      </table>
      {rows.length === 0 && <p class="empty">{empty}</p>}
    </div>
  );
}
