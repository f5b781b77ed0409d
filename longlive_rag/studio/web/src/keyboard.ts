import { clearMarks, goToEnd, jump, mark, setRate, step, togglePlay } from "./actions";
import { store } from "./store";

const FASTEST = 8;

/** Elements in which a key means something else. */
const TYPING = "input, textarea, select, dialog, [popover]";

const KEYS: Record<string, (event: KeyboardEvent) => void> = {
  " ": togglePlay,
  k: () => setRate(0),
  j: () => setRate(faster(-1)),
  l: () => setRate(faster(1)),
  ArrowLeft: (event) => step(event.shiftKey ? -aSecond() : -1),
  ArrowRight: (event) => step(event.shiftKey ? aSecond() : 1),
  Home: () => jump(0),
  End: goToEnd,
  i: () => mark("markIn"),
  o: () => mark("markOut"),
  x: clearMarks,
  "?": () => store.update({ dialog: "help" }),
};

/** The key again doubles the speed; the other direction begins anew. */
function faster(direction: 1 | -1): number {
  const { rate } = store.state;
  return rate * direction > 0 ? direction * Math.min(FASTEST, Math.abs(rate) * 2) : direction;
}

function aSecond(): number {
  return store.state.take?.fps ?? 1;
}

export function listenToKeys(focus: (name: "Direction" | "Search") => void): void {
  const keys: typeof KEYS = { ...KEYS, d: () => focus("Direction"), "/": () => focus("Search") };
  let goesByKeys = false;
  addEventListener("pointerdown", () => (goesByKeys = false), { capture: true });
  addEventListener("keydown", (event) => {
    if (event.key === "Tab") goesByKeys = true;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const path = event.composedPath().filter((node): node is Element => node instanceof Element);
    if (path.some((element) => element.matches(TYPING))) return;
    // Space presses a button that was reached by keys; one that was clicked is done with.
    if (event.key === " " && path[0].matches("button, summary, a") && goesByKeys) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in keys)) return;
    event.preventDefault();
    keys[key](event);
  });
}
