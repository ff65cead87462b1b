// The page: its views by the hash of the address, the key, and the state of the connection.
import { signal } from "@preact/signals";
import { render } from "preact";
import { useState } from "preact/hooks";
import { key, keyWanted, useKey } from "./api";
import { Events, Models, OneModel, Requests, Switches } from "./lists";
import { Logs } from "./logs";
import { Overview } from "./overview";
import { notices } from "./parts";
import { Playground } from "./play";
import { connected, failure, loaded, waitingTotal } from "./state";

const VIEWS = [["", "Now"], ["models", "Models"], ["requests", "Requests"], ["switches", "Switches"], ["logs", "Logs"], ["events", "Events"],
  ["playground", "Playground"]] as const;
const route = signal(location.hash.replace(/^#\//, ""));
window.addEventListener("hashchange", () => {
  route.value = location.hash.replace(/^#\//, "");
  document.querySelector("main")?.focus();
});

const THEMES = ["auto", "light", "dark"] as const;
const theme = signal<string>(localStorage.getItem("hotseat-theme") ?? "auto");
theme.subscribe((value) => {
  document.documentElement.dataset.theme = value;
  localStorage.setItem("hotseat-theme", value);
});

function App() {
  const [view = "", ...rest] = route.value.split("/");
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector("main")?.focus(); }}>Skip to the content</a>
      <nav aria-label="Views">
        <a class="brand" href="#/"><img src="static/icon.svg" alt="" width="24" height="24" />hotseat</a>
        {VIEWS.map(([path, text]) => (
          <a href={`#/${path}`} aria-current={view === path ? "page" : undefined}>
            {text}{path === "" && waitingTotal.value > 0 && <span class="badge" aria-label={`${waitingTotal.value} waiting`}>{waitingTotal.value}</span>}
          </a>
        ))}
        <span class="spring" />
        {key.value && <button type="button" onClick={() => useKey("")}>Forget key</button>}
        <button type="button" class="theme" aria-label={`Colours: ${theme.value}`} title={`Colours: ${theme.value}`}
          onClick={() => { theme.value = THEMES[(THEMES.indexOf(theme.value as "auto") + 1) % 3]!; }}>◐</button>
        <span class={`link ${connected.value ? "up" : "down"}`} role="status">{connected.value ? "live" : "connecting…"}</span>
      </nav>
      <main id="main" tabIndex={-1}>
        {keyWanted.value ? <Key /> : !loaded.value ? <p class="empty">{failure.value || "Reading the state…"}</p> : (
          <>
            {failure.value && <p class="alarm" role="alert">The state cannot be read: {failure.value}. It is tried again.</p>}
            {view === "" && <Overview />}
            {view === "models" && (rest.length ? <OneModel key={rest.join("/")} name={decodeURIComponent(rest.join("/"))} /> : <Models />)}
            {view === "requests" && <Requests />}
            {view === "switches" && <Switches />}
            {view === "logs" && <Logs />}
            {view === "events" && <Events />}
            {view === "playground" && <Playground />}
          </>
        )}
      </main>
      <div class="notices" role="status">{notices.value.map((each) => <p key={each.id} class={each.bad ? "bad" : ""}>{each.text}</p>)}</div>
    </>
  );
}

function Key() {
  const [text, setText] = useState("");
  return (
    <form class="card key" onSubmit={(event) => { event.preventDefault(); useKey(text.trim()); }}>
      <h2>API key</h2>
      <p>{key.value ? "This key is not valid." : "This hotseat asks for a key."} It is kept in this tab alone, until the tab is closed.</p>
      <label>Key<input type="password" autocomplete="off" value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      <button type="submit" class="main">Use</button>
    </form>
  );
}

render(<App />, document.getElementById("app")!);
