import { css, html, nothing } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { askToDelete, chooseTake, findFrame, openTake, searchTakes } from "../actions";
import type { FrameHit, LeftOut, Take } from "../schema";
import { listed, store } from "../store";
import { clock } from "../timecode";
import { shared, shortened, StudioElement } from "./base";
import "./frame-picture";

const SEARCH_AFTER_MS = 200;

/** All takes of the folder, newest first; a search by words, and one by the frame under the playhead. */
export class StudioLibrary extends StudioElement {
  protected watches = ["takes", "leftOut", "take", "search", "matches", "studio", "found"] as const;
  private waiting?: ReturnType<typeof setTimeout>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template: auto auto auto minmax(0, 1fr) / minmax(0, 1fr);
        gap: 0.5em;
        padding: 0.6em 0.7em;
        background: var(--panel);
        min-height: 0;
      }
      .head {
        display: flex;
        justify-content: space-between;
        align-items: center;
      }
      .find {
        display: flex;
        gap: 0.4em;
        align-items: center;
      }
      .find span {
        flex: 1;
      }
      .find button {
        padding: 0.1em 0.5em;
      }
      [role="listbox"],
      p {
        grid-row: 4;
        grid-column: 1;
      }
      [role="listbox"] {
        overflow-y: auto;
      }
      [role="option"] {
        display: grid;
        grid-template-columns: 3.4em minmax(0, 1fr);
        gap: 0.5em;
        align-items: center;
        padding: 0.25em 0.3em;
        cursor: pointer;
      }
      [role="option"][aria-selected="true"] {
        background: var(--chosen);
      }
      .words {
        display: grid;
        min-width: 0;
      }
      .similarity {
        color: var(--memory);
      }
      p {
        margin: 0.3em;
      }
      .live,
      .reason {
        color: var(--live);
      }
      .reason {
        overflow-wrap: anywhere;
      }
      [aria-disabled="true"] {
        cursor: default;
      }
      .no-picture {
        align-self: start;
        text-align: center;
        color: var(--live);
        background: #000;
      }
    `,
  ];

  override render() {
    const { search, found, matches } = this.state;
    const takes = listed(this.state);
    const leftOut = matches ? [] : this.state.leftOut;
    const isEmpty = !(found ? found.hits : [...takes, ...leftOut]).length;
    return html`
      <div class="head">
        <h2>Library</h2>
        <button class="primary" ?disabled=${!this.state.studio} @click=${() => store.update({ dialog: "new" })}>New take</button>
      </div>
      <input aria-label="Search" placeholder="Search by words" dir="auto" enterkeyhint="search" .value=${search} @input=${this.search} />
      ${this.find()}
      <div role="listbox" tabindex=${isEmpty ? 0 : nothing} aria-label="Library" @keydown=${this.move}>
        ${found
          ? found.hits.map((hit, index) => this.hit(hit, index))
          : [
              repeat(
                takes,
                (take) => take.id,
                (take, index) => this.option(take, index),
              ),
              leftOut.map((each, index) => this.leftOut(each, index === 0 && !takes.length)),
            ]}
      </div>
      ${isEmpty ? html`<p class="quiet">${this.nothingHere()}</p>` : nothing}
    `;
  }

  private nothingHere(): string {
    const { found, matches, studio } = this.state;
    if (!studio) return "Reading the takes …";
    return found ? "No take shows anything like it" : matches ? "No take has these words" : "No takes yet";
  }

  /** The search by a frame. */
  private find() {
    const { found, take } = this.state;
    if (!found) {
      return html`<div class="find">
        <button ?disabled=${!take?.frames} @click=${findFrame} title="Moments of all takes that look like the frame under the playhead">
          Find this frame
        </button>
        <span></span>
        <button ?disabled=${!take || take.status === "live"} @click=${() => askToDelete(take!)} title="Delete the take that is open (Delete)">
          Delete …
        </button>
      </div>`;
    }
    return html`<div class="find">
      <span class="quiet time one-line">Like ${clock(found.seconds)} of ${found.take}</span>
      <button @click=${() => store.update({ found: null })} title="Back to all takes">Clear</button>
    </div>`;
  }

  /** A moment that looks like the frame that is searched for. */
  private hit(hit: FrameHit, index: number) {
    const take = this.state.takes.find((other) => other.id === hit.take);
    return html`<div
      role="option"
      aria-selected="false"
      tabindex=${index === 0 ? 0 : -1}
      data-id=${hit.take}
      data-frame=${hit.frame}
      @click=${() => openTake(hit.take, hit.frame, false)}
    >
      <frame-picture .take=${hit.take} .frame=${hit.frame} .ratio=${take ? take.width / take.height : 1}></frame-picture>
      <span class="words">
        ${shortened(take?.name ?? "a take")}
        <span class="time">${clock(hit.seconds)} <span class="similarity" title="Similarity">${hit.similarity.toFixed(3)}</span></span>
      </span>
    </div>`;
  }

  private option(take: Take, index: number) {
    const chosen = take.id === this.state.take?.id;
    const reachable = chosen || (index === 0 && !listed(this.state).some(({ id }) => id === this.state.take?.id));
    return html`<div
      role="option"
      aria-selected=${chosen}
      tabindex=${reachable ? 0 : -1}
      data-id=${take.id}
      data-name=${take.name}
      title="${take.name}: ${take.prompt}"
      @click=${() => chooseTake(take.id)}
    >
      <frame-picture .take=${take.id} .frame=${take.frames ? 0 : -1} .ratio=${take.width / take.height}></frame-picture>
      <span class="words">
        ${shortened(take.name)}
        <span class="quiet time one-line">
          ${take.status === "finished" ? "" : html`<span class=${take.status}>${take.status}</span> · `}${clock(take.made_seconds)} · <bdi>${take.prompt}</bdi>
        </span>
      </span>
    </div>`;
  }

  /** A take that can't be opened. */
  private leftOut({ id, name, reason }: LeftOut, isFirst: boolean) {
    return html`<div role="option" aria-selected="false" aria-disabled="true" tabindex=${isFirst ? 0 : -1} data-id=${id} data-name=${name} title="Press Delete to delete it">
      <span class="no-picture" aria-hidden="true">!</span>
      <span class="words">${shortened(name)}<span class="reason">${reason}</span></span>
    </div>`;
  }

  private search(event: InputEvent): void {
    const words = (event.target as HTMLInputElement).value;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => searchTakes(words), SEARCH_AFTER_MS);
  }

  private move(event: KeyboardEvent): void {
    const options = [...this.renderRoot.querySelectorAll<HTMLElement>('[role="option"]')];
    const at = options.indexOf(event.target as HTMLElement);
    const places: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 };
    const take = [...this.state.takes, ...this.state.leftOut].find(({ id }) => id === options[at]?.dataset.id);
    if (event.key === "Enter") options[at].click();
    else if (event.key === "Delete" && take && !this.state.found) askToDelete(take);
    else if (event.key in places) options[places[event.key]]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

customElements.define("studio-library", StudioLibrary);
