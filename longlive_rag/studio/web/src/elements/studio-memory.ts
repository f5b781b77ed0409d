import { css, html, nothing } from "lit";
import { live } from "lit/directives/live.js";
import { repeat } from "lit/directives/repeat.js";
import { choosePolicy, jump, openTake, type Steer, steer } from "../actions";
import type { BlockMemory, Remembered, Span, TakeDetail } from "../schema";
import { policyAt, remembers, segmentAt, steered } from "../store";
import { clock } from "../timecode";
import { shared, StudioElement } from "./base";
import "./frame-picture";
import "./memory-map";

const SHOWN_MOMENTS = 5;
const HINTS = { pin: "Bring it back for every block from now on", exclude: "Never bring it back from now on" };

/** Which past frames the block under the playhead brought back, and the map of the whole take. */
export class StudioMemory extends StudioElement {
  protected watches = ["take", "frame", "markIn", "markOut", "studio"] as const;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template: auto auto auto minmax(0, 1fr) auto / minmax(0, 1fr);
        gap: 0.5em;
        padding: 0.6em 0.7em;
        background: var(--panel);
        min-height: 0;
      }
      .head {
        display: flex;
        justify-content: space-between;
        align-items: baseline;
      }
      p {
        margin: 0;
      }
      .frames {
        overflow-y: auto;
        min-height: 0;
      }
      li.remembered {
        display: grid;
        grid-template-columns: clamp(3.7em, 7vh, 6em) minmax(0, 1fr) auto auto;
        gap: 0.45em;
        align-items: center;
        padding: 0.2em 0;
      }
      .picture {
        padding: 0;
        border-radius: 2px;
        overflow: hidden;
      }
      .similarity {
        color: var(--memory);
      }
      .policy {
        display: flex;
        gap: 0.5em;
        align-items: center;
      }
      .policy select {
        flex: none;
        padding: 0.1em 0.3em;
      }
      .told {
        display: flex;
        flex-wrap: wrap;
        gap: 0.3em;
        max-height: 4em;
        overflow-y: auto;
      }
      .told button {
        padding: 0 0.5em;
      }
      .told .pin {
        border-color: var(--memory);
      }
      .told .exclude {
        border-color: var(--live);
      }
      .recalled {
        display: flex;
        gap: 0.3em;
        flex-wrap: wrap;
        align-items: center;
        height: 3.9em;
        align-content: start;
        overflow: hidden;
      }
      .recalled button {
        padding: 0 0.4em;
      }
      .range {
        display: flex;
        gap: 0.4em;
        align-items: center;
      }
      .range span {
        flex: 1;
        color: var(--quiet);
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", "Memory");
  }

  override render() {
    const { take, frame } = this.state;
    if (!take) {
      return html`<h2>Memory</h2>
        <p class="quiet">For the block under the playhead: the past frames that it brought back, to be pinned or excluded.</p>`;
    }
    const block = segmentAt(take.segments, frame)?.block ?? 0;
    const memory = take.memory.find((entry) => entry.block === block);
    return html`
      <div class="head">
        <h2>Memory</h2>
        <span class="quiet time">block ${block}${memory?.policy ? `, chosen by ${memory.policy}` : nothing}</span>
      </div>
      ${this.policy(take)}
      <memory-map></memory-map>
      <ul class="frames" role="list" aria-label="Remembered frames">
        ${memory?.remembered.length
          ? repeat(
              memory.remembered,
              (past) => `${past.take}/${past.latent_frame}`,
              (past) => this.remembered(past, take),
            )
          : html`<li class="quiet">
              ${remembers(take) ? "This block brought nothing back: nothing under words like its own has left its sight." : "This take was made without memory."}
            </li>`}
      </ul>
      <div>${this.told(take)} ${this.recalled(take)} ${this.range(take)}</div>
    `;
  }

  /** Which policy chooses from the next block on. */
  private policy(take: TakeDetail) {
    const chosen = policyAt(take, Infinity);
    const reason = !remembers(take) ? "it has no memory" : take.status !== "live" ? "the take isn't live" : "";
    return html`<label class="policy quiet">
      Policy
      <select
        ?disabled=${reason !== ""}
        title=${reason || "Another one chooses from the next block on"}
        @change=${(event: Event) => choosePolicy((event.target as HTMLSelectElement).value)}
      >
        ${this.state.studio?.policies.map((name) => html`<option ?selected=${name === chosen} .selected=${live(name === chosen)}>${name}</option>`)}
      </select>
      <span class="one-line">${reason}</span>
    </label>`;
  }

  /** What memory is told to bring back, or not to; a click takes that back. */
  private told(take: TakeDetail) {
    const spans = (["pin", "exclude"] as const).flatMap((how) => steered(take, how).map((span) => ({ how, span })));
    if (!spans.length) return nothing;
    return html`<div class="told" role="group" aria-label="Pinned and excluded">
      ${spans.map(({ how, span: [from, to] }) => {
        const [done, back] = how === "pin" ? (["Pinned", "unpin"] as const) : (["Excluded", "unexclude"] as const);
        const when = to - from < 1 ? clock(from) : `${clock(from)} – ${clock(to)}`;
        return html`<button class="time ${how}" title="Take it back" ?disabled=${take.status !== "live"} @click=${() => steer(back, [from, to])}>
          ${done} ${when} ✕
        </button>`;
      })}
    </div>`;
  }

  private remembered(past: Remembered, take: TakeDetail) {
    const elsewhere = past.take !== null && past.take !== take.id;
    const frame = past.frame ?? -1;
    const when = past.seconds === null ? "a lost frame" : clock(past.seconds);
    return html`<li class="remembered">
      <button
        class="picture"
        aria-label="Go to ${when}"
        ?disabled=${frame < 0}
        @click=${() => (elsewhere ? openTake(past.take!, frame) : jump(frame))}
      >
        <frame-picture .take=${past.take ?? take.id} .frame=${frame} .ratio=${take.width / take.height}></frame-picture>
      </button>
      <span class="time">
        ${when}${elsewhere ? " of another take" : ""}<br />
        <span class="similarity" title="Similarity">${past.similarity.toFixed(3)}</span>
      </span>
      ${elsewhere ? nothing : ["pin" as const, "exclude" as const].map((how) => this.toggle(how, spanOf(past, take), take))}
    </li>`;
  }

  private toggle(how: "pin" | "exclude", span: Span, take: TakeDetail) {
    const on = steered(take, how).some(([from, to]) => from === span[0] && to === span[1]);
    const order: Steer = on ? `un${how}` : how;
    return html`<button
      aria-pressed=${on}
      title=${take.status === "live" ? HINTS[how] : "Only while the take is made"}
      ?disabled=${take.status !== "live"}
      @click=${() => steer(order, span)}
    >
      ${how === "pin" ? "Pin" : "Exclude"}
    </button>`;
  }

  /** The other way round: which later blocks brought back what is under the playhead. */
  private recalled(take: TakeDetail) {
    const { frame } = this.state;
    const now = segmentAt(take.segments, frame);
    const later = now ? take.memory.filter((entry) => bringsBack(entry, now.first_frame, now.first_frame + now.frames)) : [];
    return html`<div class="recalled quiet">
      ${later.length ? "Brought back at" : "What is shown now was not brought back yet"}
      ${later
        .slice(0, SHOWN_MOMENTS)
        .map((entry) => html`<button class="time" @click=${() => jump(take.segments[entry.block].first_frame)}>${clock(entry.seconds)}</button>`)}
      ${later.length > SHOWN_MOMENTS ? `and ${later.length - SHOWN_MOMENTS} more` : nothing}
    </div>`;
  }

  private range(take: TakeDetail) {
    const { markIn, markOut, frame } = this.state;
    const marked = markIn !== null || markOut !== null;
    const from = (marked ? (markIn ?? 0) : frame) / take.fps;
    const to = ((marked ? (markOut ?? take.frames - 1) : frame) + 1) / take.fps;
    return html`<div class="range">
      <span>${marked ? `Marked ${clock(from)} – ${clock(to)}` : `This frame, ${clock(from)}`}</span>
      ${this.toggle("pin", [from, to], take)} ${this.toggle("exclude", [from, to], take)}
    </div>`;
  }
}

function bringsBack(entry: BlockMemory, from: number, to: number): boolean {
  return entry.remembered.some((past) => past.take === null && past.frame !== null && past.frame >= from && past.frame < to);
}

/** The seconds that one latent frame covers: pixel frames up to the next one. */
function spanOf(past: Remembered, take: TakeDetail): Span {
  const frame = past.frame ?? 0;
  const factor = past.latent_frame > 0 ? Math.max(1, Math.round(frame / past.latent_frame)) : 1;
  return [frame / take.fps, (frame + factor) / take.fps];
}

customElements.define("studio-memory", StudioMemory);
