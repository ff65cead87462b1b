// The time line of the accelerator, drawn on a canvas: thousands of spans scroll without stutter.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { clock, hue, seconds } from "./format";
import { lanesOf, type Lane, type Span } from "./spans";
import { events, running } from "./state";

const RANGES = [[60, "1 min"], [120, "2 min"], [900, "15 min"], [3600, "1 h"], [21_600, "6 h"], [86_400, "24 h"]] as const;
const ROW = 30, TOP = 24, GAP = 7;

interface Hit { lane: Lane; span: Span; x: number; y: number }

export function TimeLine({ model }: { model?: string }) {
  const [range, setRange] = useState<number>(120);
  const [hit, setHit] = useState<Hit | null>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const lanes = useMemo(
    () => lanesOf(events.value, running.value, Date.now()).filter((each) => !model || each.model === model),
    [events.value, running.value, model],
  );
  const drawn = useRef<{ lane: Lane; span: Span; x0: number; x1: number; y: number }[]>([]);
  const visible = lanes.filter((lane) => lane.last > Date.now() - 1000 * range).sort((a, b) => a.model.localeCompare(b.model));

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    let frame = 0;
    const draw = () => {
      drawn.current = paint(element, visible, range);
      frame = window.setTimeout(() => requestAnimationFrame(draw), range <= 120 ? 50 : 1000);
    };
    draw();
    return () => window.clearTimeout(frame);
  }, [lanes, range, visible.length]);

  const point = (event: PointerEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const found = drawn.current.findLast((each) => y >= each.y && y < each.y + ROW && x >= each.x0 - 2 && x <= each.x1 + 2);
    setHit(found ? { lane: found.lane, span: found.span, x, y } : null);
  };

  return (
    <section class="card timeline" aria-labelledby="timeline-title">
      <header>
        <h2 id="timeline-title">Accelerator</h2>
        <div class="choices" role="group" aria-label="Range">
          {RANGES.map(([value, text]) => (
            <button type="button" aria-pressed={range === value} onClick={() => setRange(value)}>{text}</button>
          ))}
        </div>
      </header>
      {visible.length === 0 ? (
        <p class="empty">No model was resident in the last {seconds(range)}. A request for a model loads it.</p>
      ) : (
        <div class="plot">
          <canvas ref={canvas} role="img" style={{ height: `${TOP + visible.length * ROW}px` }}
            aria-label={`Time line of ${visible.map((lane) => lane.model).join(", ")}. The list of switches has the same in words.`}
            onPointerMove={point} onPointerLeave={() => setHit(null)} />
          {hit && (
            <div class="tip" style={{ left: `${Math.min(hit.x, canvas.current!.clientWidth - 220)}px`, top: `${hit.y + 18}px` }}>
              <b>{hit.lane.model}</b> {hit.span.text}<br />
              {clock(hit.span.from)} – {clock(hit.span.to)} · {seconds((hit.span.to - hit.span.from) / 1000)}
            </div>
          )}
        </div>
      )}
      <ul class="legend" aria-hidden="true">
        <li class="k-wait">waits</li><li class="k-load">load</li><li class="k-ready">resident</li><li class="k-drain">drain</li>
        <li class="k-release">release</li><li class="k-parked">parked</li><li class="k-failed">failed</li>
      </ul>
    </section>
  );
}

function paint(element: HTMLCanvasElement, lanes: Lane[], range: number) {
  const scale = window.devicePixelRatio || 1, width = element.clientWidth, height = TOP + lanes.length * ROW;
  if (element.width !== Math.round(width * scale) || element.height !== Math.round(height * scale)) {
    element.width = Math.round(width * scale);
    element.height = Math.round(height * scale);
  }
  const pen = element.getContext("2d")!;
  const style = getComputedStyle(element), colour = (name: string) => style.getPropertyValue(name).trim();
  const dark = colour("--scheme") === "dark";
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const label = Math.min(170, width * 0.26), end = Date.now(), begin = end - 1000 * range;
  const x = (at: number) => label + ((at - begin) / (end - begin)) * (width - label);
  pen.font = `12px ${style.fontFamily}`;
  pen.textBaseline = "middle";

  pen.fillStyle = colour("--faint");
  pen.strokeStyle = colour("--line");
  const step = [5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14_400].find((each) => (each / range) * (width - label) > 70) ?? 21_600;
  for (let at = Math.ceil(begin / 1000 / step) * step * 1000; at < end; at += step * 1000) {
    const left = Math.round(x(at)) + 0.5;
    pen.beginPath(); pen.moveTo(left, TOP - 4); pen.lineTo(left, height); pen.stroke();
    if (left < width - 40) pen.fillText(clock(at, step < 60), left + 4, 10);
  }

  const drawn: { lane: Lane; span: Span; x0: number; x1: number; y: number }[] = [];
  lanes.forEach((lane, row) => {
    const y = TOP + row * ROW, tone = hue(lane.model);
    pen.fillStyle = colour("--text");
    pen.save();
    pen.beginPath(); pen.rect(0, y, label - 8, ROW); pen.clip();
    pen.fillText(lane.model, 0, y + ROW / 2);
    pen.restore();
    for (const span of lane.spans) {
      if (span.to < begin) continue;
      const x0 = Math.max(label, x(span.from)), x1 = Math.max(x0 + 1.5, x(Math.min(span.to, end)));
      drawn.push({ lane, span, x0, x1, y });
      const body = dark ? `hsl(${tone} 55% 58%)` : `hsl(${tone} 60% 45%)`;
      const faint = dark ? `hsl(${tone} 40% 32%)` : `hsl(${tone} 60% 80%)`;
      pen.fillStyle = { wait: colour("--wait"), load: faint, ready: body, drain: faint, release: colour("--faint"), parked: faint,
        failed: colour("--bad") }[span.kind];
      if (span.kind === "wait") pen.fillRect(x0, y + ROW - 5, x1 - x0, 2);
      else if (span.kind === "parked") pen.fillRect(x0, y + ROW / 2 - 1, x1 - x0, 2);
      else pen.fillRect(x0, y + GAP, x1 - x0, ROW - 2 * GAP);
      if (span.kind === "load" || span.kind === "drain") hatch(pen, x0, y + GAP, x1 - x0, ROW - 2 * GAP, body, span.kind === "load");
    }
  });
  return drawn;
}

function hatch(pen: CanvasRenderingContext2D, x: number, y: number, width: number, height: number, colour: string, up: boolean) {
  if (width < 3) return;
  pen.save();
  pen.beginPath(); pen.rect(x, y, width, height); pen.clip();
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.55;
  pen.beginPath();
  for (let at = x - height; at < x + width; at += 6) {
    pen.moveTo(at, up ? y + height : y); pen.lineTo(at + height, up ? y : y + height);
  }
  pen.stroke();
  pen.restore();
}
