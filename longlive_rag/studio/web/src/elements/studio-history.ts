import { css, html, nothing, type TemplateResult } from "lit";
import { chooseTake, command, currentBlock, goOnWith } from "../actions";
import type { Take } from "../schema";
import { clock } from "../timecode";
import { shared, shortened, StudioElement } from "./base";
import "./frame-picture";

const EXTEND_SECONDS = 10;

/** The tree of takes that grew from one beginning, and what makes it grow. */
export class StudioHistory extends StudioElement {
  protected watches = ["take", "takes", "frame", "busy"] as const;
  /** The button that had the focus, which is lost where a button can't be pressed for a while. */
  private focused: HTMLButtonElement | null = null;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template-rows: auto minmax(0, 1fr) auto;
        gap: 0.4em;
        padding: 0.6em 0.7em;
        background: var(--panel);
        border-top: 1px solid var(--line);
        min-height: 0;
      }
      .tree,
      p {
        grid-area: 2 / 1;
        margin: 0;
      }
      .tree {
        overflow-y: auto;
      }
      [role="treeitem"] > .row {
        display: grid;
        grid-template-columns: 2.6em minmax(0, 1fr) auto;
        gap: 0.5em;
        align-items: center;
        padding: 0.15em 0.3em;
        cursor: pointer;
        border-left: 2px solid transparent;
      }
      [aria-current="true"] > .row {
        background: var(--chosen);
        border-color: var(--playhead);
      }
      [role="group"] {
        margin-left: 0.8em;
        border-left: 1px solid var(--line);
      }
      .buttons {
        display: grid;
        grid-template-columns: repeat(6, minmax(0, 1fr));
        gap: 0.35em;
      }
      .buttons button {
        grid-column: span 2;
        padding-inline: 0.2em;
      }
      .buttons button:nth-child(-n + 2) {
        grid-column: span 3;
      }
    `,
  ];

  override render() {
    const { take, busy } = this.state;
    const live = take?.status === "live";
    const block = currentBlock();
    return html`
      <h2>Branches</h2>
      <div class="tree" role="tree" aria-label="Branches" @keydown=${this.move}>${take ? this.item(this.root(take)) : nothing}</div>
      ${take ? nothing : html`<p class="quiet">A take and all that grows from it: undoing and branching lose nothing.</p>`}
      <div class="buttons" @focusin=${this.noteFocus} @focusout=${this.noteFocus}>
        <button ?disabled=${!take?.blocks || busy} @click=${() => goOnWith({ do: "undo_to", block: block + 1 })} title="Go on after this block; what was made stays as a branch">
          Undo to here
        </button>
        <button ?disabled=${!take?.blocks || busy} @click=${() => goOnWith({ do: "branch", block: block + 1, prompt: null, seed: null })} title="Another ending after this block, from other noise; for other words, write them in the line of directions">
          Branch here
        </button>
        <button ?disabled=${!take || live || busy} @click=${() => goOnWith({ do: "extend", seconds: EXTEND_SECONDS, prompt: null })} title="Make ${EXTEND_SECONDS} seconds more">
          Extend
        </button>
        <button ?disabled=${!live} @click=${() => command({ do: "stop" })} title="End it after the block that is being made">Stop</button>
        <button
          ?disabled=${!take || busy || !(take.waiting || take.status === "interrupted" || take.status === "failed")}
          @click=${() => goOnWith({ do: "resume" })}
          title="Go on to the length that was asked for"
        >
          Resume
        </button>
      </div>
    `;
  }

  /** A button that can't be pressed any more loses the focus; where it goes by itself, it isn't lost. */
  private noteFocus({ type, target }: FocusEvent): void {
    const button = target as HTMLButtonElement;
    if (type === "focusin") this.focused = button;
    else if (!button.disabled) this.focused = null;
  }

  /** Gives the focus back after a command, or to the next button that can be pressed. */
  protected override updated(): void {
    const { focused } = this;
    if (!focused || this.state.busy) return;
    const isHere = (this.renderRoot as ShadowRoot).activeElement === focused;
    if (!isHere && document.activeElement !== document.body) this.focused = null;
    else if (!isHere || focused.disabled) {
      const buttons = [focused, ...this.renderRoot.querySelectorAll<HTMLButtonElement>(".buttons button")];
      buttons.find((button) => !button.disabled)?.focus();
    }
  }

  /** The take that all grew from. Takes that were renamed by hand may be each other's parents. */
  private root(take: Take, below: string[] = []): Take {
    const parent = this.state.takes.find((other) => other.id === take.parent);
    const path = [...below, take.id];
    return parent && !path.includes(parent.id) ? this.root(parent, path) : take;
  }

  private item(take: Take, above: string[] = []): TemplateResult {
    const open = this.state.take!.id === take.id;
    const path = [...above, take.id];
    const children = this.state.takes.filter((other) => other.parent === take.id && !path.includes(other.id)).reverse();
    const fork = this.forkFrame(take);
    return html`<div
      role="treeitem"
      tabindex=${open ? 0 : -1}
      aria-current=${open}
      aria-expanded=${children.length ? "true" : nothing}
      data-id=${take.id}
    >
      <div class="row" title="${take.name}: ${take.prompt}" @click=${() => chooseTake(take.id)}>
        <frame-picture .take=${take.id} .frame=${take.frames ? fork : -1} .ratio=${take.width / take.height}></frame-picture>
        ${shortened(take.name)}
        <span class="quiet time">${take.parent ? `at ${clock(take.parent_seconds!)}` : clock(take.made_seconds)}</span>
      </div>
      ${children.length ? html`<div role="group">${children.map((child) => this.item(child, path))}</div>` : nothing}
    </div>`;
  }

  /** The first frame after the fork, or of the take. */
  private forkFrame(take: Take): number {
    return Math.min(take.frames - 1, Math.round((take.parent_seconds ?? 0) * take.fps));
  }

  private move(event: KeyboardEvent): void {
    const items = [...this.renderRoot.querySelectorAll<HTMLElement>('[role="treeitem"]')];
    const at = items.indexOf(event.target as HTMLElement);
    const next = { ArrowDown: items[at + 1], ArrowUp: items[at - 1] }[event.key];
    if (next) next.focus();
    else if (event.key === "Enter") chooseTake(items[at].dataset.id!);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

customElements.define("studio-history", StudioHistory);
