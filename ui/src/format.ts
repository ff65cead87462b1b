// Times and sizes as people read them.
export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 119.5) return `${Math.round(value)} s`;
  if (value < 7170) return `${Math.round(value / 60)} min`;
  return value < 172_000 ? `${(value / 3600).toFixed(1)} h` : `${Math.round(value / 86_400)} days`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1024; at++; }
  return `${value < 10 && at ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

export function clock(at: number, withSeconds = true): string {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(withSeconds && { second: "2-digit" }) });
}

export function day(at: number): string {
  return new Date(at).toLocaleDateString([], { weekday: "short", day: "numeric", month: "short" });
}

let tones = new Map<string, number>();

/** Give each name a hue of its own, far from those of its neighbours. */
export function colour(names: readonly string[]): void {
  tones = new Map([...names].sort().map((name, at) => [name, (210 + at * 137.508) % 360]));
}

export function hue(name: string): number {
  return tones.get(name) ?? 0;
}
