import { css, html } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { listTakes, openTake } from "../actions";
import type { Take } from "../schema";
import { store } from "../store";
import { clock } from "../timecode";
import { shared, shortened, StudioElement } from "./base";
import "./frame-picture";

const SEARCH_AFTER_MS = 200;

/** All takes of the folder, newest first, and a search by words. */
export class StudioLibrary extends StudioElement {
  protected watches = ["takes", "take", "search", "studio"] as const;
  private waiting?: ReturnType<typeof setTimeout>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template-rows: auto auto minmax(0, 1fr);
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
      .live {
        color: var(--live);
      }
    `,
  ];

  override render() {
    const { takes, search } = this.state;
    return html`
      <div class="head">
        <h2>Library</h2>
        <button class="primary" @click=${() => store.update({ dialog: "new" })}>New take</button>
      </div>
      <input type="search" aria-label="Search" placeholder="Search by words" .value=${search} @input=${this.search} />
      <div role="listbox" aria-label="Library" @keydown=${this.move}>
        ${repeat(
          takes,
          (take) => take.id,
          (take, index) => this.option(take, index),
        )}
      </div>
      ${takes.length ? "" : html`<p class="quiet">${search ? "No take has these words" : "No takes yet"}</p>`}
    `;
  }

  private option(take: Take, index: number) {
    const chosen = take.id === this.state.take?.id;
    const reachable = chosen || (index === 0 && !this.state.take);
    return html`<div
      role="option"
      aria-selected=${chosen}
      tabindex=${reachable ? 0 : -1}
      data-id=${take.id}
      title=${take.prompt}
      @click=${() => openTake(take.id)}
    >
      <frame-picture .take=${take.id} .frame=${take.frames ? 0 : -1} .ratio=${take.width / take.height}></frame-picture>
      <span class="words">
        ${shortened(take.name)}
        <span class="quiet time one-line">
          ${take.status === "finished" ? "" : html`<span class=${take.status}>${take.status}</span> · `}${clock(take.made_seconds)} · ${take.prompt}
        </span>
      </span>
    </div>`;
  }

  private search(event: InputEvent): void {
    const words = (event.target as HTMLInputElement).value;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => listTakes(words), SEARCH_AFTER_MS);
  }

  private move(event: KeyboardEvent): void {
    const options = [...this.renderRoot.querySelectorAll<HTMLElement>('[role="option"]')];
    const at = options.indexOf(event.target as HTMLElement);
    const places: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 };
    if (event.key === "Enter") void openTake(options[at].dataset.id!);
    else if (event.key in places) options[places[event.key]]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

customElements.define("studio-library", StudioLibrary);
