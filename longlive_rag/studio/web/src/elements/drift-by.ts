import { css, html, nothing } from "lit";
import { embedderOf, embeddersOf, store } from "../store";
import { shared, StudioElement } from "./base";

/** What drift is judged by, of what the server has. */
export class DriftBy extends StudioElement {
  protected watches = ["take", "studio", "embedder"] as const;

  static override styles = [
    shared,
    css`
      :host {
        display: inline-block;
        white-space: nowrap;
      }
      select {
        max-width: 9em;
        padding: 0 0.3em;
      }
    `,
  ];

  override render() {
    const { take, studio } = this.state;
    const chosen = take && embedderOf(take, this.state);
    if (!take || !chosen) return nothing;
    return html`<label class="quiet">
      Drift by
      <select @change=${(event: Event) => store.update({ embedder: (event.target as HTMLSelectElement).value })}>
        ${embeddersOf(take, studio).map(
          ({ name, independent }) =>
            html`<option value=${name} ?selected=${name === chosen.name}>${name}${independent ? "" : " (no independent judge)"}</option>`,
        )}
      </select>
    </label>`;
  }
}

customElements.define("drift-by", DriftBy);
