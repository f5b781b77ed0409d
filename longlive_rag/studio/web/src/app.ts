import { css, html, nothing } from "lit";
import { enter, keepOpen } from "./actions";
import { shared, styled, StudioElement } from "./elements/base";
import "./elements/delete-take";
import "./elements/export-menu";
import "./elements/first-minute";
import "./elements/new-take";
import "./elements/run-table";
import "./elements/studio-alerts";
import "./elements/studio-compare";
import "./elements/studio-direction";
import "./elements/studio-help";
import "./elements/studio-history";
import "./elements/studio-library";
import "./elements/studio-memory";
import "./elements/studio-stage";
import type { StudioTimeline } from "./elements/studio-timeline";
import "./elements/studio-timeline";
import "./elements/studio-transport";
import { listenToKeys } from "./keyboard";
import { promptAt, store } from "./store";

/** The room: library and branches at the left, the picture in the middle, memory at the right. */
export class StudioApp extends StudioElement {
  protected watches = ["take", "frame", "compared", "note", "studio"] as const;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template: "head head head" 3em "left stage right" minmax(0, 1fr) / 17.5em minmax(0, 1fr) 22em;
        gap: 1px;
        height: 100vh;
        background: var(--line);
      }
      header {
        grid-area: head;
        display: flex;
        gap: 0.6em;
        align-items: center;
        padding: 0 0.7em;
        background: var(--panel);
      }
      header h1 {
        margin: 0;
        font-size: 1em;
        font-weight: 600;
      }
      .title {
        flex: 1;
      }
      .note {
        max-width: 34em;
      }
      .left {
        grid-area: left;
        display: grid;
        grid-template-rows: minmax(0, 3fr) minmax(0, 2fr);
        min-height: 0;
      }
      main {
        grid-area: stage;
        position: relative;
        display: grid;
        grid-template-rows: minmax(0, 1fr) auto auto clamp(12em, 25vh, 18em);
        min-width: 0;
        min-height: 0;
      }
      .pictures {
        position: relative;
        display: grid;
        grid-auto-flow: column;
        grid-auto-columns: minmax(0, 1fr);
        gap: 2px;
        min-height: 0;
      }
      /* Beneath a row of controls the pictures, all of one height, and beneath them the drift of all. */
      .compared {
        grid-template-rows: auto minmax(0, 1fr) auto;
      }
      .compared studio-stage {
        grid-area: 2 / 1;
      }
      .compared studio-compare {
        grid-area: 1 / 1 / -1 / -1;
      }
      first-minute {
        position: absolute;
        inset: 0;
        pointer-events: none;
      }
      studio-memory {
        grid-area: right;
      }
      .live {
        color: var(--live);
      }
      /* One column, which the page scrolls. As wide as in page.css. */
      @media (width < 62em) {
        :host {
          grid-template: "head" "stage" "left" "right" / minmax(0, 1fr);
          height: auto;
        }
        header {
          flex-wrap: wrap;
          padding-block: 0.4em;
        }
        .title,
        .note {
          order: 1;
          flex-basis: 100%;
          max-width: none;
        }
        .left {
          grid-template-rows: 24em 18em;
        }
        main {
          grid-template-rows: auto auto auto 18em;
        }
        .pictures {
          height: min(80vw, 50vh);
        }
        .compared {
          height: 80vh;
        }
      }
    `,
  ];

  override render() {
    const { take, frame, compared, note, studio } = this.state;
    // Each picture gets the same width.
    const columns = compared ? `minmax(0, 1fr) minmax(0, ${Math.max(1, compared.length)}fr)` : "minmax(0, 1fr)";
    return html`
      <header>
        <h1>Studio</h1>
        <span class="quiet">${studio?.takes_folder ?? ""}</span>
        <span class="title one-line">
          ${take
            ? html`${take.name} <span class=${take.status === "live" ? "live" : "quiet"}>${take.waiting ? "waiting" : take.status}</span>
                <bdi class="quiet">${promptAt(take, frame / take.fps)}</bdi>`
            : nothing}
        </span>
        <span class="note quiet one-line" role="log" title=${note}>${note}</span>
        <button aria-pressed=${compared !== null} ?disabled=${!take} @click=${() => store.update({ compared: compared ? null : [] })}>Compare</button>
        <button ?disabled=${!studio} @click=${() => store.update({ dialog: "runs" })}>Runs</button>
        <export-menu></export-menu>
        <button aria-label="Keys" title="Keys (?)" @click=${() => store.update({ dialog: "help" })}>?</button>
      </header>
      <aside class="left">
        <studio-library></studio-library>
        <studio-history></studio-history>
      </aside>
      <main>
        <div class=${compared ? "pictures compared" : "pictures"} ${styled({ "grid-template-columns": columns })}>
          <studio-stage></studio-stage>
          ${compared ? html`<studio-compare></studio-compare>` : nothing}
          <first-minute></first-minute>
        </div>
        <studio-transport></studio-transport>
        <studio-direction></studio-direction>
        <studio-timeline></studio-timeline>
      </main>
      <studio-memory></studio-memory>
      <new-take @begun=${this.focusPlayhead}></new-take>
      <studio-help></studio-help>
      <run-table></run-table>
      <delete-take></delete-take>
      <studio-alerts></studio-alerts>
    `;
  }

  protected override firstUpdated(): void {
    listenToKeys((name) => this.focusTextbox(name));
    addEventListener("pagehide", keepOpen);
    // Another address of the same page: the studio was started again.
    addEventListener("hashchange", () => location.reload());
    void enter();
  }

  /** Where keys go on from when a take is begun. */
  private async focusPlayhead(): Promise<void> {
    const timeline = this.renderRoot.querySelector<StudioTimeline>("studio-timeline")!;
    await timeline.updateComplete;
    timeline.renderRoot.querySelector<HTMLElement>('[role="slider"]')?.focus();
  }

  /** Of several tabs, which one shows which take. */
  protected override updated(): void {
    const { take } = this.state;
    document.title = take ? `${take.name} – Studio` : "Studio";
  }

  private focusTextbox(name: "Direction" | "Search"): void {
    const element = this.renderRoot.querySelector(name === "Direction" ? "studio-direction" : "studio-library");
    element?.shadowRoot?.querySelector<HTMLInputElement>(`[aria-label="${name}"]`)?.focus();
  }
}

customElements.define("studio-app", StudioApp);
