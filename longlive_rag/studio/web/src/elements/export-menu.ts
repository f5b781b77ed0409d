import { css, html } from "lit";
import { copy, download } from "../actions";
import type { Exported } from "../schema";
import { markedRange } from "../store";
import { clock } from "../timecode";
import { shared, StudioElement } from "./base";

const ITEMS: [Exported, string][] = [
  ["video", "Video of the range"],
  ["stills", "Stills of the range"],
  ["sheet", "Contact sheet"],
  ["cues", "Cues"],
  ["otio", "OpenTimelineIO of this take"],
  ["otio_branch", "OpenTimelineIO of the whole branch"],
  ["rights", "Rights page"],
];

/** The button "Export" and its menu. */
export class ExportMenu extends StudioElement {
  protected watches = ["take", "markIn", "markOut"] as const;

  static override styles = [
    shared,
    css`
      [popover] {
        position: fixed;
        inset: 3.2em 0.6em auto auto;
        margin: 0;
        padding: 0.4em;
        background: var(--panel);
        color: var(--text);
        border: 1px solid #4a5058;
        border-radius: 4px;
      }
      [popover] button {
        display: block;
        width: 100%;
        text-align: left;
        border-color: transparent;
        background: none;
        padding: 0.35em 0.8em;
      }
      p {
        margin: 0.2em 0.8em;
      }
    `,
  ];

  override render() {
    const { take } = this.state;
    if (!take) return html`<button disabled>Export</button>`;
    const [from, to] = markedRange(this.state);
    const rights = take.labels ? ` · policy ${take.labels.license_policy} · ${take.labels.label}` : "";
    return html`
      <button popovertarget="menu" aria-haspopup="menu">Export</button>
      <div id="menu" popover role="menu" aria-label="Export" @toggle=${this.moveFocus} @click=${this.close} @keydown=${this.move}>
        <p class="quiet time">${clock(from)} – ${clock(to)}${rights}</p>
        ${ITEMS.map(([what, name]) => html`<button role="menuitem" @click=${() => download(what)}>${name}</button>`)}
        <button role="menuitem" @click=${() => copy(take.command, "command")}>Copy as command</button>
        <button role="menuitem" @click=${() => copy(take.python, "Python")}>Copy as Python</button>
      </div>
    `;
  }

  /** To the first item, and back when nothing else was chosen. */
  private moveFocus({ newState }: ToggleEvent): void {
    const { activeElement } = this.renderRoot as ShadowRoot;
    const isLeft = document.activeElement === document.body || activeElement?.role === "menuitem";
    if (newState === "open") this.renderRoot.querySelector<HTMLElement>("[role=menuitem]")!.focus();
    else if (isLeft) this.renderRoot.querySelector("button")!.focus();
  }

  private close(event: Event): void {
    if ((event.target as HTMLElement).role === "menuitem") (event.currentTarget as HTMLElement).hidePopover();
  }

  private move(event: KeyboardEvent): void {
    const items = [...this.renderRoot.querySelectorAll<HTMLElement>("[role=menuitem]")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    items[(items.indexOf(event.target as HTMLElement) + step + items.length) % items.length].focus();
  }
}

customElements.define("export-menu", ExportMenu);
