import { css, html, nothing } from "lit";
import { beginDemo, DEMO } from "../actions";
import { store } from "../store";
import { shared, StudioElement } from "./base";

/** What the demo take shows, said when it is to be seen: from this second on, this sentence. */
const MOMENTS: [seconds: number, says: string][] = [
  [0, "The take plays while it is made. Scrub on the strip below, or press ? for the keys."],
  [DEMO.cues![0].seconds, "A cue took over: the square leaves. Soon nothing of it is in sight, nor in what the model still attends to."],
  [
    DEMO.cues![1].seconds,
    "The square returns, and it is the same one. The white marks on the memory map, at the right, are the past frames that were brought back for this moment; click one with Shift to see it.",
  ],
];

/** For an empty library one button that makes the demo take; then a line that says what is to be seen. */
export class FirstMinute extends StudioElement {
  protected watches = ["takes", "studio", "take", "guided", "frame", "compared", "busy"] as const;

  static override styles = [
    shared,
    css`
      .welcome {
        position: absolute;
        inset: 0;
        display: grid;
        pointer-events: auto;
        place-content: center;
        justify-items: center;
        gap: 0.8em;
        text-align: center;
        background: var(--ground);
      }
      .welcome p {
        margin: 0;
        max-width: 34em;
      }
      .welcome h1 {
        margin: 0;
        font-size: 1.5em;
        font-weight: 500;
      }
      .pointer {
        position: absolute;
        top: 1em;
        right: 1em;
        width: min(24em, 60%);
        display: flex;
        pointer-events: auto;
        gap: 0.6em;
        align-items: start;
        padding: 0.6em 0.6em 0.6em 0.9em;
        background: rgb(26 28 31 / 94%);
        border: 1px solid var(--line);
        border-left: 3px solid var(--memory);
      }
      .pointer.map {
        border-color: var(--memory);
      }
      .pointer.map::after {
        content: "";
        position: absolute;
        right: -0.55em;
        top: 1.2em;
        width: 1em;
        height: 1em;
        transform: rotate(45deg);
        background: var(--memory);
      }
    `,
  ];

  override render() {
    const { studio, takes, take, guided, frame, compared } = this.state;
    if (studio && !take && !takes.length) return this.welcome();
    if (!take || take.id !== guided || compared) return nothing;
    const at = MOMENTS.findLastIndex(([seconds]) => seconds <= frame / take.fps);
    const last = at === MOMENTS.length - 1;
    return html`<div class=${last ? "pointer map" : "pointer"} role="note" aria-live="polite">
      <span>${MOMENTS[at][1]}</span>
      <button @click=${() => store.update({ guided: null })} aria-label="Close the guide">✕</button>
    </div>`;
  }

  private welcome() {
    return html`<div class="welcome">
      <h1>A video model that remembers what it has shown</h1>
      <p class="quiet">
        No takes yet. The demo take is half a minute of a small drawn world: a square stands in a desert, leaves, and returns as
        itself.
      </p>
      <button class="primary" ?disabled=${this.state.busy} @click=${beginDemo}>
        ${this.state.busy ? "Starting …" : "Make the demo take"}
      </button>
    </div>`;
  }
}

customElements.define("first-minute", FirstMinute);
