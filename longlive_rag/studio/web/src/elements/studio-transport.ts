import { css, html } from "lit";
import { live } from "lit/directives/live.js";
import { clearMarks, goToEnd, jump, mark, setPace, step, togglePlay } from "../actions";
import { store } from "../store";
import { parseTimecode, smpte } from "../timecode";
import { shared, StudioElement } from "./base";

const PACES = [1, 2, 4, 8];

/** Buttons of the player, the timecode, the marked range and the pace. */
export class StudioTransport extends StudioElement {
  protected watches = ["take", "frame", "rate", "following", "markIn", "markOut", "pace"] as const;

  static override styles = [
    shared,
    css`
      :host {
        display: flex;
        align-items: center;
        gap: 0.3em;
        padding: 0.35em 0.6em;
        background: var(--panel);
        border-top: 1px solid var(--line);
      }
      @media (width < 75em) {
        :host {
          flex-wrap: wrap;
        }
      }
      input {
        width: 7.6em;
        padding-inline: 0;
        text-align: center;
        color: var(--playhead);
      }
      button {
        flex: none;
        padding-inline: 0.5em;
      }
      .play {
        width: 4.6em;
      }
      .rate {
        width: 1.4em;
      }
      .mark {
        display: flex;
        gap: 0.3em;
        align-items: center;
      }
      .range {
        width: 5.8em;
      }
      select {
        width: 10.9em;
        padding-inline: 0.2em;
      }
      label {
        margin-left: auto;
        white-space: nowrap;
      }
    `,
  ];

  override render() {
    const { take, frame, rate, following, markIn, markOut, pace } = this.state;
    const fps = take?.fps ?? 1;
    const typed = this.renderRoot.querySelector<HTMLInputElement>("input:focus")?.value;
    const range = (at: number | null) => (at === null ? "––" : smpte(at, fps));
    return html`
      <button @click=${() => step(-1)} ?disabled=${!take} aria-label="Previous frame" title="Previous frame (←)">◂|</button>
      <button class="play primary" @click=${togglePlay} ?disabled=${!take} title="Space">${rate ? "Pause" : "Play"}</button>
      <button @click=${() => step(1)} ?disabled=${!take} aria-label="Next frame" title="Next frame (→)">|▸</button>
      <button @click=${goToEnd} ?disabled=${!take} aria-pressed=${following} title="End">Go to end</button>
      <input
        class="time"
        aria-label="Timecode"
        title="12.5, 0:12.5 or 00:00:12:08, then Enter"
        .value=${live(typed ?? smpte(frame, fps))}
        ?disabled=${!take}
        @keydown=${this.enterTimecode}
        @focus=${(event: FocusEvent) => (event.target as HTMLInputElement).select()}
        @blur=${() => this.requestUpdate()}
      />
      <span class="rate quiet time">${rate && rate !== 1 ? `${rate}×` : ""}</span>
      <span class="mark">
        <button @click=${() => mark("markIn")} ?disabled=${!take} title="Mark in (I)">In</button>
        <span class="time quiet range">${range(markIn)}</span>
      </span>
      <span class="mark">
        <button @click=${() => mark("markOut")} ?disabled=${!take} title="Mark out (O)">Out</button>
        <span class="time quiet range">${range(markOut)}</span>
      </span>
      <button @click=${clearMarks} ?disabled=${markIn === null && markOut === null} aria-label="Clear marks" title="Clear marks (X)">✕</button>
      <label class="quiet">
        Pace
        <select @change=${this.choosePace} title="How far making may run ahead of the playhead">
          ${PACES.map(
            (blocks) => html`<option value=${blocks} ?selected=${blocks === pace}>${blocks} ${blocks === 1 ? "block" : "blocks"} ahead</option>`,
          )}
          <option value="" ?selected=${pace === null}>As fast as it can</option>
        </select>
      </label>
    `;
  }

  private enterTimecode(event: KeyboardEvent): void {
    const input = event.target as HTMLInputElement;
    const { take } = this.state;
    if (event.key === "Escape") input.blur();
    if (event.key !== "Enter" || !take) return;
    const seconds = parseTimecode(input.value, take.fps);
    if (seconds === null) {
      store.alert(`“${input.value}” is not a timecode; write 12.5, 0:12.5, 1:02:03.5 or 00:00:12:08`);
      return;
    }
    store.update({ rate: 0 });
    // The frame that is on screen at that moment; seconds that were rounded for reading must not fall one short.
    jump(Math.floor(seconds * take.fps + 1e-4));
    input.blur();
  }

  private choosePace(event: Event): void {
    const { value } = event.target as HTMLSelectElement;
    void setPace(value ? Number(value) : null);
  }
}

customElements.define("studio-transport", StudioTransport);
