// The page: its views by the hash of the address, the key, the keyboard, and the state of the connection.
import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { key, keyWanted, useKey } from "./api";
import { Icon, type IconName } from "./icons";
import { Events, Models, OneModel, Requests, Switches } from "./lists";
import { Logs } from "./logs";
import { Overview } from "./overview";
import { Empty, notices } from "./parts";
import { Playground } from "./play";
import { Settings } from "./settings";
import { connected, failure, loaded, waitingTotal } from "./state";

const VIEWS: readonly (readonly [IconName, string, string])[] = [["now", "", "Now"], ["models", "models", "Models"], ["requests", "requests", "Requests"],
  ["switches", "switches", "Switches"], ["logs", "logs", "Logs"], ["events", "events", "Events"], ["playground", "playground", "Playground"],
  ["settings", "settings", "Settings"]];
const route = signal(location.hash.replace(/^#\//, ""));
window.addEventListener("hashchange", () => {
  route.value = location.hash.replace(/^#\//, "");
  document.querySelector("main")?.focus();
  window.scrollTo(0, 0);
});

const THEMES = ["auto", "light", "dark"] as const;
const theme = signal<string>(localStorage.getItem("hotseat-theme") ?? "auto");
theme.subscribe((value) => {
  document.documentElement.dataset.theme = value;
  localStorage.setItem("hotseat-theme", value);
});
const nextTheme = () => { theme.value = THEMES[(THEMES.indexOf(theme.value as "auto") + 1) % 3]!; };

const helping = signal(false);
window.addEventListener("keydown", (event) => {
  const typing = (event.target as HTMLElement).closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const view = VIEWS[Number(event.key) - 1];
  if (event.key === "?") helping.value = !helping.value;
  else if (helping.value) return;
  else if (view) location.hash = `#/${view[1]}`;
  else if (event.key === "t") nextTheme();
  else if (event.key === "/") {
    event.preventDefault();
    document.querySelector<HTMLElement>("main input[type=search]")?.focus();
  }
});

function App() {
  const [view = "", ...rest] = route.value.split("/");
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector("main")?.focus(); }}>Skip to the content</a>
      <nav aria-label="Views">
        <a class="brand" href="#/"><img src="static/icon.svg" alt="" width="26" height="26" />hotseat</a>
        {VIEWS.map(([icon, path, text]) => (
          <a class="view" href={`#/${path}`} aria-current={view === path ? "page" : undefined}>
            <Icon name={icon} /><span>{text}</span>
            {path === "" && waitingTotal.value > 0 && <span class="badge" aria-label={`${waitingTotal.value} waiting`}>{waitingTotal.value}</span>}
          </a>
        ))}
        <span class="spring" />
        {key.value && <button type="button" class="quiet" onClick={() => useKey("")}><Icon name="key" />Forget key</button>}
        <div class="foot">
          <span class={`link ${connected.value ? "up" : "down"}`} role="status">{connected.value ? "live" : "connecting…"}</span>
          <button type="button" class="quiet" aria-label={`Colours: ${theme.value}`} title={`Colours: ${theme.value} (t)`} onClick={nextTheme}><Icon name="theme" /></button>
          <button type="button" class="quiet" aria-label="Keyboard" title="Keyboard (?)" onClick={() => { helping.value = true; }}><Icon name="help" /></button>
        </div>
      </nav>
      <main id="main" tabIndex={-1}>
        {keyWanted.value ? <Key /> : !loaded.value ? (
          <section class="card"><Empty title={failure.value ? "The state cannot be read" : "Reading the state…"}>{failure.value}</Empty></section>
        ) : (
          <>
            {failure.value && <p class="alarm" role="alert">The state cannot be read: {failure.value}. It is tried again.</p>}
            {view === "" && <Overview />}
            {view === "models" && (rest.length ? <OneModel key={rest.join("/")} name={decodeURIComponent(rest.join("/"))} /> : <Models />)}
            {view === "requests" && <Requests />}
            {view === "switches" && <Switches />}
            {view === "logs" && <Logs />}
            {view === "events" && <Events />}
            {view === "playground" && <Playground />}
            {view === "settings" && <Settings />}
            {!VIEWS.some(([, path]) => path === view) && <section class="card"><Empty title={`There is no view ${view}`}><a href="#/">Show what happens now</a></Empty></section>}
          </>
        )}
      </main>
      {helping.value && <Help />}
      <div class="notices" role="status">{notices.value.map((each) => <p key={each.id} class={each.bad ? "bad" : ""}>{each.text}</p>)}</div>
    </>
  );
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current!.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="help-title" onClose={() => { helping.value = false; }}>
      <h2 id="help-title">Keyboard</h2>
      <dl class="keys">
        {VIEWS.map(([, , text], at) => <><dt><kbd>{at + 1}</kbd></dt><dd>{text}</dd></>)}
        <dt><kbd>/</kbd></dt><dd>find in a list</dd>
        <dt><kbd>t</kbd></dt><dd>colours: auto, light, dark</dd>
        <dt><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd></dt><dd>go from span to span, and from model to model, in a time line that has the focus</dd>
        <dt><kbd>Enter</kbd></dt><dd>open the model of that span</dd>
        <dt><kbd>?</kbd></dt><dd>this help</dd>
      </dl>
      <form method="dialog"><button type="submit" class="main">Close</button></form>
    </dialog>
  );
}

function Key() {
  const [text, setText] = useState("");
  return (
    <form class="card key" onSubmit={(event) => { event.preventDefault(); useKey(text.trim()); }}>
      <h1>API key</h1>
      <p>{key.value ? "hotseat does not accept this key. Enter another one." : "Requests to this hotseat need an API key."} It is kept in this tab only, until the tab is closed.</p>
      <label>Key<input type="password" autocomplete="off" value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      <button type="submit" class="main">Use this key</button>
    </form>
  );
}

const root = document.getElementById("app")!;
root.replaceChildren(); // what the file has until the page runs
render(<App />, root);
