// Build the page into the Python package. The result is the same for the same sources and the same lock file.
import { build } from "esbuild";
import { copyFile, mkdir, rm } from "node:fs/promises";

const out = process.argv[2] ?? "../functions/hotseat/ui/static";
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  bundle: true, minify: true, format: "esm", target: "es2022", outdir: out, legalComments: "none",
  jsx: "automatic", jsxImportSource: "preact",
});
for (const name of ["index.html", "icon.svg"]) await copyFile(`src/${name}`, `${out}/${name}`);
