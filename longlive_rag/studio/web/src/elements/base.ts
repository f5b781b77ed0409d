import { css, html, LitElement } from "lit";
import { Directive, directive, type ElementPart } from "lit/directive.js";
import { type State, store } from "../store";

/** An element that shows a part of the store's state and renders again when that changes. */
export abstract class StudioElement extends LitElement {
  /** What of the state it shows. */
  protected abstract watches: readonly (keyof State)[];
  private unsubscribe?: () => void;

  protected get state(): State {
    return store.state;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.unsubscribe = store.subscribe((changed) => {
      if (this.watches.some((key) => changed.has(key))) this.requestUpdate();
    });
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.unsubscribe?.();
  }
}

/** A dialog that is open while the state says so. */
export abstract class StudioDialog extends StudioElement {
  protected abstract named: State["dialog"];

  protected get dialog(): HTMLDialogElement {
    return this.renderRoot.querySelector("dialog")!;
  }

  protected override updated(): void {
    const opens = this.state.dialog === this.named;
    if (opens && !this.dialog.open) {
      this.dialog.showModal();
      this.opened();
    }
    if (!opens && this.dialog.open) this.dialog.close();
  }

  protected opened(): void {}

  /** Also by Escape. */
  protected closed(): void {
    if (this.state.dialog === this.named) store.update({ dialog: null });
  }
}

class StyleProperties extends Directive {
  render(_properties: Record<string, string>): void {}

  override update(part: ElementPart, [properties]: [Record<string, string>]): void {
    for (const [name, value] of Object.entries(properties)) (part.element as HTMLElement).style.setProperty(name, value);
  }
}

/** Sets CSS properties one by one; a style attribute would be refused by the page's content security policy. */
export const styled = directive(StyleProperties);

/** A name that is shortened before its end, where names of branches differ. */
export function shortened(name: string) {
  const tail = TAIL.exec(name)![0];
  return html`<span class="shortened"><span class="one-line">${name.slice(0, name.length - tail.length)}</span><span>${tail}</span></span>`;
}

/** What branches and twins have that their parents don't. */
const TAIL = /((-native)?(-\d+)?)*$/;

/** The look that all elements share. */
export const shared = css`
  :host {
    display: block;
    min-width: 0;
    color: var(--text);
  }
  * {
    box-sizing: border-box;
  }
  h2 {
    margin: 0;
    font-size: 0.85em;
    font-weight: 600;
    letter-spacing: 0.06em;
    text-transform: uppercase;
    color: var(--quiet);
  }
  button,
  input,
  select,
  textarea {
    font: inherit;
    color: inherit;
    background: var(--raised);
    border: 1px solid var(--line);
    border-radius: 3px;
    padding: 0.25em 0.6em;
    min-width: 0;
  }
  input,
  select,
  textarea {
    background: var(--ground);
    border-color: #6b727b;
  }
  button {
    cursor: pointer;
    white-space: nowrap;
  }
  button:hover:not(:disabled) {
    background: #31353b;
  }
  button:disabled {
    color: #7d848d;
    cursor: default;
  }
  button[aria-pressed="true"],
  button.primary {
    background: var(--chosen);
    border-color: #5d86b3;
  }
  input::placeholder {
    color: #8b929b;
  }
  :focus-visible {
    outline: 2px solid var(--focus);
    outline-offset: 1px;
  }
  ul {
    list-style: none;
    margin: 0;
    padding: 0;
  }
  dialog {
    padding: 1.1em 1.3em;
    background: var(--panel);
    color: var(--text);
    border: 1px solid #4a5058;
    border-radius: 4px;
  }
  dialog::backdrop {
    background: rgb(0 0 0 / 60%);
  }
  .quiet {
    color: var(--quiet);
  }
  .time {
    font-variant-numeric: tabular-nums;
  }
  .shortened {
    display: flex;
    min-width: 0;
    white-space: nowrap;
  }
  .one-line {
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
`;
