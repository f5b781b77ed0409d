import { css, html } from "lit";
import { deleteTake } from "../actions";
import { shared, StudioDialog } from "./base";

/** Asks before a take is deleted. */
export class DeleteTake extends StudioDialog {
  protected watches = ["dialog", "deleting"] as const;
  protected named = "delete" as const;

  static override styles = [
    shared,
    css`
      dialog {
        width: min(34em, 94vw);
      }
      h1 {
        margin: 0;
        font-size: 1.2em;
        overflow-wrap: anywhere;
      }
      form {
        display: flex;
        justify-content: flex-end;
        gap: 0.5em;
      }
    `,
  ];

  override render() {
    const { deleting } = this.state;
    return html`<dialog aria-label="Delete take" @close=${this.closed}>
      <h1>Delete ${deleting?.name}?</h1>
      <p>
        Its folder, with everything in it, is removed from the disk for good. Takes that branched from it, or remember it, are whole
        without it.
      </p>
      <form method="dialog">
        <button autofocus>Cancel</button>
        <button class="primary" @click=${() => void deleteTake(deleting!)}>Delete</button>
      </form>
    </dialog>`;
  }
}

customElements.define("delete-take", DeleteTake);
