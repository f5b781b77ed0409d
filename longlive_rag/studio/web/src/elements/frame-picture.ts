import { css, html, LitElement } from "lit";
import { api } from "../api";

/** A made frame of a take; keeps its room while the picture is on its way. */
export class FramePicture extends LitElement {
  static override properties = {
    take: {},
    frame: { type: Number },
    ratio: { type: Number },
  };
  declare take: string;
  declare frame: number;
  /** Width by height. */
  declare ratio: number;

  static override styles = css`
    :host {
      display: block;
      background: #000;
      overflow: hidden;
    }
    canvas {
      display: block;
      width: 100%;
      height: 100%;
      object-fit: cover;
    }
  `;

  override render() {
    return html`<canvas width="160" height=${Math.round(160 / (this.ratio || 1))} aria-hidden="true"></canvas>`;
  }

  override async updated(): Promise<void> {
    const { take, frame } = this;
    if (!take || frame < 0) return;
    const picture = await api.picture(take, frame, 160).catch(() => null);
    if (!picture || take !== this.take || frame !== this.frame) return;
    const canvas = this.renderRoot.querySelector("canvas")!;
    canvas.getContext("2d")!.drawImage(picture, 0, 0, canvas.width, canvas.height);
  }
}

customElements.define("frame-picture", FramePicture);
