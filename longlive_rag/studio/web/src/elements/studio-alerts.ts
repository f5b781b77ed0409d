import { css, html, nothing } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { store } from "../store";
import { shared, StudioElement } from "./base";

/** What went wrong, one sentence each, until it is dismissed; it lies over the page and moves nothing. */
export class StudioAlerts extends StudioElement {
  protected watches = ["alerts"] as const;

  static override styles = [
    shared,
    css`
      :host {
        position: fixed;
        left: 50%;
        bottom: 1.2em;
        transform: translateX(-50%);
        width: min(46em, 90vw);
        max-height: 60vh;
        overflow-y: auto;
        z-index: 10;
      }
      div {
        display: flex;
        gap: 0.8em;
        align-items: center;
        margin-top: 0.4em;
        padding: 0.5em 0.5em 0.5em 0.9em;
        background: #3a2222;
        border: 1px solid var(--live);
        border-radius: 3px;
      }
      span {
        flex: 1;
        min-width: 0;
        overflow-wrap: anywhere;
      }
    `,
  ];

  override render() {
    return repeat(
      this.state.alerts,
      (alert) => alert.number,
      (alert) => html`<div role="alert">
        <span>${alert.message}</span>
        ${alert.remedy ? html`<button @click=${alert.remedy.run}>${alert.remedy.name}</button>` : nothing}
        <button @click=${() => store.dismiss(alert.number)} aria-label="Dismiss">✕</button>
      </div>`,
    );
  }
}

customElements.define("studio-alerts", StudioAlerts);
