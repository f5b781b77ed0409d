import { css, html } from "lit";
import { shared, StudioDialog } from "./base";

const KEYS = [
  ["Space", "play or pause"],
  ["J K L", "backwards, pause, forwards; again for faster"],
  ["← →", "a frame back or on; with Shift a second"],
  ["Home End", "to the beginning, to the newest frame"],
  ["I O X", "mark in, mark out, no marks"],
  ["D", "write a direction"],
  ["/", "search the library"],
  ["Tab ← →", "to a planned cue on the strip; move it by a block"],
  ["Enter Delete", "edit a planned cue, withdraw it"],
  ["Delete", "in the library: delete a take"],
  ["?", "this page"],
];

/** The keys. */
export class StudioHelp extends StudioDialog {
  protected watches = ["dialog"] as const;
  protected named = "help" as const;

  static override styles = [
    shared,
    css`
      dl {
        display: grid;
        grid-template-columns: auto auto;
        gap: 0.4em 1.6em;
      }
      dt {
        color: var(--playhead);
      }
      dd {
        margin: 0;
      }
    `,
  ];

  override render() {
    return html`<dialog aria-label="Keys" @close=${this.closed}>
      <h2>Keys</h2>
      <dl>${KEYS.map(([keys, what]) => html`<dt>${keys}</dt><dd>${what}</dd>`)}</dl>
      <form method="dialog"><button class="primary">Close</button></form>
    </dialog>`;
  }
}

customElements.define("studio-help", StudioHelp);
