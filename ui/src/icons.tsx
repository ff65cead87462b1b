// Icons of 20 by 20, drawn with lines of the text's colour.
const PATHS = {
  now: "M3 11h3l2-6 4 11 2-5h3",
  models: "M10 2.5l7 3.8v7.4l-7 3.8-7-3.8V6.3zM3 6.3l7 3.8 7-3.8M10 10.1v7.4",
  requests: "M3 5h14M3 10h14M3 15h8",
  switches: "M4 7h12l-3-3M16 13H4l3 3",
  logs: "M5 2.5h7l3 3v12H5zM8 8h4M8 11h4M8 14h3",
  events: "M10 2v4M10 14v4M2 10h4M14 10h4M4.5 4.5l2.6 2.6M12.9 12.9l2.6 2.6M15.5 4.5l-2.6 2.6M7.1 12.9l-2.6 2.6",
  playground: "M3 4h14v9H9l-4 3.5V13H3z",
  settings: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4",
  theme: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
  help: "M7.2 7.5a2.8 2.8 0 1 1 4 2.6c-.8.4-1.2 1-1.2 1.9M10 15v.2",
  key: "M12.5 3.5a4 4 0 1 1-3.4 6L4 14.6V17h2.5v-2H8l2.5-2.6",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">
      <path d={PATHS[name]} />
    </svg>
  );
}
