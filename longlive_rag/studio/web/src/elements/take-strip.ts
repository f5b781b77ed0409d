import { css, html, LitElement, nothing } from "lit";
import type { Span, Take } from "../schema";
import { clock } from "../timecode";
import { shared } from "./base";
import "./frame-picture";

const PIECES = 12;

/** Frames of a take to choose a range of: a click begins it, another one extends it; `chosen` says it. */
export class TakeStrip extends LitElement {
  static override properties = { take: {}, range: {} };
  declare take: Take;
  declare range: Span | null;

  static override styles = [
    shared,
    css`
      div {
        display: grid;
        grid-template-columns: repeat(${PIECES}, minmax(0, 1fr));
        gap: 2px;
      }
      button {
        padding: 0;
        border-width: 2px;
        opacity: 0.65;
      }
      button[aria-pressed="true"] {
        opacity: 1;
        border-color: var(--memory);
      }
    `,
  ];

  override render() {
    const { take, range } = this;
    if (!take?.frames) return nothing;
    const step = take.made_seconds / PIECES;
    return html`<div role="group" aria-label="Frames of ${take.name}">
      ${Array.from({ length: PIECES }, (_, piece) => {
        const from = piece * step;
        const inside = !!range && from + step / 2 > range[0] && from + step / 2 < range[1];
        return html`<button type="button" aria-pressed=${inside} aria-label="From ${clock(from)}" title=${clock(from)} @click=${() => this.choose(piece)}>
          <frame-picture .take=${take.id} .frame=${Math.floor((from + step / 2) * take.fps)} .ratio=${take.width / take.height}></frame-picture>
        </button>`;
      })}
    </div>`;
  }

  private choose(piece: number): void {
    const step = this.take.made_seconds / PIECES;
    const here: Span = [piece * step, (piece + 1) * step];
    const { range } = this;
    const inside = range && here[0] >= range[0] - 1e-3 && here[1] <= range[1] + 1e-3;
    const chosen: Span = !range || inside ? here : [Math.min(range[0], here[0]), Math.max(range[1], here[1])];
    this.dispatchEvent(new CustomEvent("chosen", { detail: chosen }));
  }
}

customElements.define("take-strip", TakeStrip);
