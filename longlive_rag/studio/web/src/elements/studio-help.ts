import { css, html } from "lit";
import { store } from "../store";
import { shared, StudioElement } from "./base";

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
  ["?", "this page"],
];

/** The keys. */
export class StudioHelp extends StudioElement {
  protected watches = ["dialog"] as const;

  static override styles = [
    shared,
    css`
      dialog {
        padding: 1.1em 1.5em;
        background: var(--panel);
        color: var(--text);
        border: 1px solid #4a5058;
        border-radius: 4px;
      }
      dialog::backdrop {
        background: rgb(0 0 0 / 60%);
      }
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

  protected override updated(): void {
    const dialog = this.renderRoot.querySelector("dialog")!;
    if (this.state.dialog === "help" && !dialog.open) dialog.showModal();
    if (this.state.dialog !== "help" && dialog.open) dialog.close();
  }

  private closed(): void {
    if (this.state.dialog === "help") store.update({ dialog: null });
  }
}

customElements.define("studio-help", StudioHelp);
