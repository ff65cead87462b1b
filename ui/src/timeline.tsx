// The time line of the accelerator, drawn on a canvas that is as large as what is in sight: thousands of spans scroll without stutter.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { signal } from "@preact/signals";
import { clock, hue, seconds } from "./format";
import { laneId, pictureOf, timesOf, withWaits, type Lane, type Picture, type Span, type Swap } from "./spans";
import { events, models, remember, requests, running, settings } from "./state";

const RANGES = [[60, "1 min"], [120, "2 min"], [900, "15 min"], [3600, "1 h"], [21_600, "6 h"], [86_400, "24 h"]] as const;
const ROW = 28, TOP = 24, GAP = 6, MOST = 13; // MOST: rows that are in sight at once

interface Drawn { lane: Lane; span: Span; x0: number; x1: number; y: number; label: number }
interface Scale { label: number; begin: number; end: number; width: number }

const range = signal(120); // it stays as it is when another view is opened

export function TimeLine({ model }: { model?: string }) {
  const [chosen, setChosen] = useState<{ lane: string; from: number; kind: string; byKey: boolean } | null>(null);
  const box = useRef<HTMLDivElement>(null), canvas = useRef<HTMLCanvasElement>(null);
  const drawn = useRef<Drawn[]>([]);
  const { waits, busy } = useMemo(() => timesOf(requests.value), [requests.value]);
  const picture = useMemo(() => withWaits(pictureOf(events.value, running.value, Date.now()), waits, models.value, Date.now()), [events.value, running.value, waits]);
  const begin = Date.now() - 1000 * range.value;
  const lanes = picture.lanes.filter((each) => each.last > begin && (!model || each.model === model));
  const height = TOP + ROW * Math.min(lanes.length, MOST);
  const lane = lanes.find((each) => each.id === chosen?.lane);
  const span = lane?.spans.findLast((each) => each.from === chosen!.from && each.kind === chosen!.kind);

  useEffect(() => { void remember("events", range.value); void remember("requests", range.value); }, [range.value, settings.value?.history]);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    let frame = 0, timer = 0;
    const draw = () => {
      if (box.current) drawn.current = paint(element, box.current.scrollTop, height, { lanes, swaps: picture.swaps }, busy, range.value, span);
    };
    const loop = () => {
      draw();
      timer = window.setTimeout(() => { frame = requestAnimationFrame(loop); }, range.value <= 120 ? 50 : range.value <= 900 ? 250 : 1000);
    };
    loop();
    const now = () => { cancelAnimationFrame(frame); window.clearTimeout(timer); frame = requestAnimationFrame(loop); };
    box.current!.addEventListener("scroll", now, { passive: true });
    const look = new ResizeObserver(now);
    look.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)"), theme = new MutationObserver(now);
    dark.addEventListener("change", now); // what is drawn has the colours of before
    theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      cancelAnimationFrame(frame); window.clearTimeout(timer); look.disconnect(); theme.disconnect(); dark.removeEventListener("change", now);
      box.current?.removeEventListener("scroll", now);
    };
  }, [picture, busy, range.value, lanes.length, model, span]);

  const choose = (found: Lane, each: Span | undefined, byKey: boolean) => {
    if (each) setChosen({ lane: found.id, from: each.from, kind: each.kind, byKey });
  };
  const point = (event: PointerEvent) => {
    const frame = canvas.current!.getBoundingClientRect();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    const found = drawn.current.findLast((each) => y >= each.y && y < each.y + ROW && x >= each.x0 - 2 && x <= each.x1 + 2);
    if (found) choose(found.lane, found.span, false);
    else if (chosen && !chosen.byKey) setChosen(null);
  };
  const click = (event: MouseEvent) => { // of a name
    const frame = canvas.current!.getBoundingClientRect(), label = drawn.current[0]?.label ?? 0;
    const found = lanes[Math.floor((event.clientY - frame.top - TOP + box.current!.scrollTop) / ROW)];
    if (found && event.clientX - frame.left < label) location.hash = `#/models/${encodeURIComponent(found.model)}`;
  };
  const press = (event: KeyboardEvent) => {
    if (event.key === "Escape") { setChosen(null); return; }
    if (event.key === "Enter" && lane) { location.hash = `#/models/${encodeURIComponent(lane.model)}`; return; }
    if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
    event.preventDefault();
    const seen = (one: Lane) => one.spans.filter((each) => each.to > begin);
    if (!lane || !span) { if (lanes[0]) choose(lanes[0], seen(lanes[0]).at(-1), true); return; }
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const next = lanes[lanes.indexOf(lane) + (event.key === "ArrowUp" ? -1 : 1)];
      if (!next) return;
      choose(next, seen(next).toSorted((a, b) => Math.abs(a.from - span.from) - Math.abs(b.from - span.from))[0], true);
      const y = lanes.indexOf(next) * ROW, view = box.current!;
      view.scrollTop = Math.min(Math.max(view.scrollTop, y + TOP + ROW - view.clientHeight), y);
      return;
    }
    const spans = seen(lane), at = spans.indexOf(span);
    choose(lane, event.key === "Home" ? spans[0] : event.key === "End" ? spans.at(-1) : spans[at + (event.key === "ArrowLeft" ? -1 : 1)], true);
  };

  const mark = drawn.current.find((each) => each.lane.id === lane?.id && each.span.from === span?.from && each.span.kind === span?.kind);
  return (
    <section class="card timeline" aria-labelledby="timeline-title">
      <header>
        <h2 id="timeline-title">Time line</h2>
        <div class="choices" role="group" aria-label="Range">
          {RANGES.map(([value, text]) => (
            <button type="button" aria-pressed={range.value === value} onClick={() => { range.value = value; }}>{text}</button>
          ))}
        </div>
      </header>
      {lanes.length === 0 ? (
        <p class="empty">No model was resident in the last {seconds(range.value)}. A request for a model loads it.</p>
      ) : (
        <div class="frame">
          <div class="plot" ref={box} tabIndex={0} role="application" style={{ height: `${height}px` }} onKeyDown={press} onClick={click}
            onBlur={() => setChosen(null)} onPointerMove={point} onPointerLeave={() => { if (!chosen?.byKey) setChosen(null); }}
            aria-label={`Time line of ${lanes.length} ${lanes.length === 1 ? "model" : "models"}. The arrow keys go from span to span. The list of switches has the same in words.`}>
            <div style={{ height: `${TOP + lanes.length * ROW}px` }}><canvas ref={canvas} aria-hidden="true" style={{ height: `${height}px` }} /></div>
          </div>
          {lane && span && mark && <Tip lane={lane} span={span} left={(Math.max(mark.x0, 0) + mark.x1) / 2} top={mark.y + ROW} width={canvas.current!.clientWidth} />}
        </div>
      )}
      <p class="unseen" aria-live="polite">{chosen?.byKey && lane && span ? `${lane.model}: ${told(span)}` : ""}</p>
      <ul class="legend" aria-hidden="true">
        <li class="k-wait">requests wait</li><li class="k-load">load</li><li class="k-ready">serves</li><li class="k-idle">resident, idle</li>
        <li class="k-drain">drain</li><li class="k-release">release</li><li class="k-parked">parked</li><li class="k-failed">failed</li>
      </ul>
    </section>
  );
}

function told(span: Span): string {
  return `${span.text}, ${clock(span.from)} to ${clock(span.to)}, ${seconds((span.to - span.from) / 1000)}`;
}

function Tip({ lane, span, left, top, width }: { lane: Lane; span: Span; left: number; top: number; width: number }) {
  const swap = span.swap;
  return (
    <div class="tip" style={{ left: `${Math.max(0, Math.min(left - 20, width - 290))}px`, top: `${top + 4}px` }}>
      <b>{lane.model}</b> {span.text}
      <div>{clock(span.from)} – {span.open ? "now" : clock(span.to)} · {seconds(((span.open ? Date.now() : span.to) - span.from) / 1000)}</div>
      {swap && <div>switch {swap.from.length > 0 && <>from {swap.from.join(", ")} </>}to {swap.to}: {swap.reason}, {swap.waiting} waited</div>}
      {swap?.phases && (
        <div>{(["wait", "drain", "save", "release", "load", "restore"] as const).filter((phase) => swap.phases![phase] !== undefined)
          .map((phase) => `${phase} ${seconds(swap.phases![phase])}`).join(" · ")}</div>
      )}
    </div>
  );
}

function paint(
  element: HTMLCanvasElement, scrolled: number, height: number, { lanes, swaps }: Picture, busy: Map<string, [number, number][]>, range: number,
  chosen: Span | undefined,
): Drawn[] {
  const ratio = window.devicePixelRatio || 1, width = element.clientWidth;
  if (element.width !== Math.round(width * ratio) || element.height !== Math.round(height * ratio)) {
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
  }
  const pen = element.getContext("2d")!;
  const style = getComputedStyle(element), colour = (name: string) => style.getPropertyValue(name).trim();
  const dark = colour("--scheme") === "dark";
  const text = colour("--text"), dim = colour("--dim"), grey = colour("--faint"), line = colour("--line"), amber = colour("--wait"), bad = colour("--bad");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = `12px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  const first = Math.floor(scrolled / ROW), shown = lanes.slice(first, first + MOST + 2);
  const longest = Math.max(...shown.map((lane) => pen.measureText(lane.model).width));
  const end = Date.now(), scale: Scale = { label: Math.ceil(Math.min(longest + 20, 180, width * 0.3)), begin: end - 1000 * range, end, width: width - 2 };
  const x = (at: number) => scale.label + ((at - scale.begin) / (scale.end - scale.begin)) * (scale.width - scale.label);

  const step = [5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14_400].find((each) => (each / range) * (width - scale.label) > 72) ?? 21_600;
  const zone = new Date(end).getTimezoneOffset() * 60_000;
  for (let at = Math.ceil((scale.begin - zone) / 1000 / step) * step * 1000 + zone; at < end; at += step * 1000) {
    const left = Math.round(x(at)) + 0.5;
    pen.fillStyle = line;
    pen.fillRect(left, TOP - 6, 1, height);
    pen.fillStyle = dim;
    if (left > scale.label + 16 && left < width - 40) pen.fillText(clock(at, step < 60), left - 16, 9);
  }
  pen.save();
  pen.beginPath(); pen.rect(0, TOP, width, height - TOP); pen.clip();

  const drawn: Drawn[] = [], rowOf = new Map<string, number>();
  lanes.forEach((lane, at) => rowOf.set(lane.id, TOP + at * ROW - scrolled));
  for (const lane of shown) {
    const y = rowOf.get(lane.id)!, tone = hue(lane.model);
    const body = dark ? `hsl(${tone} 58% 60%)` : `hsl(${tone} 62% 46%)`, pale = dark ? `hsl(${tone} 34% 27%)` : `hsl(${tone} 62% 86%)`;
    pen.fillStyle = line;
    pen.fillRect(0, Math.round(y + ROW) - 1, width, 1);
    pen.fillStyle = text;
    pen.fillText(fitted(pen, lane.model, scale.label - 12), 0, y + ROW / 2);
    const pairs = busy.get(lane.model) ?? [];
    let edge = -1, last = "", pair = 0;
    for (const span of lane.spans) {
      if (span.to < scale.begin) continue;
      const x0 = Math.max(scale.label, x(span.from)), x1 = Math.max(x0 + 1.5, x(span.open ? end : Math.min(span.to, end)));
      if (x1 - edge < 0.5 && last === span.kind) continue; // less than a pixel beside its like
      edge = x1;
      last = span.kind;
      drawn.push({ lane, span, x0, x1, y, label: scale.label });
      const top = y + GAP, deep = ROW - 2 * GAP;
      if (span.kind === "wait") {
        pen.fillStyle = amber;
        pen.fillRect(x0, y + ROW - 5, x1 - x0, 2);
      } else if (span.kind === "parked") {
        pen.fillStyle = body;
        for (let at = x0; at < x1; at += 6) pen.fillRect(at, y + ROW / 2 - 1, Math.min(3, x1 - at), 2);
      } else {
        pen.fillStyle = { load: pale, ready: pale, drain: pale, release: grey, failed: bad }[span.kind];
        block(pen, x0, top, x1 - x0, deep);
        if (span.kind === "load" || span.kind === "drain") hatch(pen, x0, top, x1 - x0, deep, body, span.kind === "load");
        if (span.kind === "ready") {
          pen.fillStyle = body;
          while (pair < pairs.length && pairs[pair]![1] < span.from) pair++;
          for (let at = pair, painted = 0; at < pairs.length && pairs[at]![0] < (span.open ? end : span.to); at++) {
            const left = Math.max(x0, x(pairs[at]![0])), right = Math.max(left + 1, Math.min(x1, x(Math.min(pairs[at]![1], end))));
            if (right < painted + 0.5) continue;
            painted = right;
            block(pen, left, top, right - left, deep);
          }
          if (x1 - x0 > 3) { pen.fillRect(x0, top, x1 - x0, 1.5); pen.fillRect(x0, top + deep - 1.5, x1 - x0, 1.5); }
        }
      }
      if (chosen && span.from === chosen.from && span.kind === chosen.kind && span.text === chosen.text) {
        pen.strokeStyle = text;
        pen.lineWidth = 1.5;
        pen.strokeRect(x0 - 1.5, top - 2, x1 - x0 + 3, deep + 4);
      }
    }
  }
  handOvers(pen, swaps, rowOf, x, scale, dim);
  pen.fillStyle = colour("--accent");
  pen.fillRect(scale.width, TOP - 6, 1.5, height);
  pen.restore();
  return drawn;
}

/** Draw, for each switch, a line from the model that left to the one that came, where the accelerator went over. */
function handOvers(pen: CanvasRenderingContext2D, swaps: Swap[], rowOf: Map<string, number>, x: (at: number) => number, scale: Scale, colour: string) {
  let last = -9;
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 1;
  for (const swap of swaps) {
    if (swap.handed < scale.begin || !swap.from.length) continue;
    const at = Math.round(x(swap.handed)) + 0.5, to = rowOf.get(laneId(swap.workspace, swap.to));
    if (at - last < 8 || to === undefined) continue;
    last = at;
    for (const name of swap.from) {
      const from = rowOf.get(laneId(swap.workspace, name));
      if (from === undefined) continue;
      const down = to > from, y0 = from + (down ? ROW - GAP : GAP), y1 = to + (down ? GAP : ROW - GAP);
      pen.beginPath(); pen.moveTo(at, y0); pen.lineTo(at, y1); pen.stroke();
      pen.beginPath(); pen.moveTo(at, y1); pen.lineTo(at - 3, y1 + (down ? -5 : 5)); pen.lineTo(at + 3, y1 + (down ? -5 : 5)); pen.fill();
    }
  }
}

function block(pen: CanvasRenderingContext2D, x: number, y: number, width: number, height: number) {
  if (width < 5) { pen.fillRect(x, y, width, height); return; }
  pen.beginPath(); pen.roundRect(x, y, width, height, 3); pen.fill();
}

function hatch(pen: CanvasRenderingContext2D, x: number, y: number, width: number, height: number, colour: string, up: boolean) {
  if (width < 3) return;
  pen.save();
  pen.beginPath(); pen.rect(x, y, width, height); pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let at = x - height; at < x + width; at += 5) {
    pen.moveTo(at, up ? y + height : y); pen.lineTo(at + height, up ? y : y + height);
  }
  pen.stroke();
  pen.restore();
}

function fitted(pen: CanvasRenderingContext2D, text: string, room: number): string {
  if (pen.measureText(text).width <= room) return text;
  let most = text.length;
  while (most > 1 && pen.measureText(`${text.slice(0, most)}…`).width > room) most--;
  return `${text.slice(0, most)}…`;
}
