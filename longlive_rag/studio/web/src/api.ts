import type {
  Answer,
  ClientMessage,
  Command,
  Drift,
  Exported,
  FieldError,
  FrameHit,
  LeftOut,
  NewTake,
  Studio,
  StudioEvent,
  Take,
  TakeDetail,
} from "./schema";

const NO_ANSWER = "The studio's server does not answer; is it still running?";
const STARTED_AGAIN = "The studio was started again; open the address that it printed";
const SECRET_KEY = "studio-secret";
const NOT_LET_IN = 1008;
const RECONNECT_MS = 1000;
const PICTURES_KEPT = 400;
/** A block that has not arrived by then is asked for again. */
const STALLED_MS = 20_000;

/** The server refused; `fields` says which entries of a form it was about. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly fields: FieldError[] = [],
  ) {
    super(message);
  }
}

/** The server's side of the studio, over HTTP and one WebSocket. */
export class Api {
  private secret = "";
  private socket: WebSocket | null = null;
  private pictures = new Map<string, Promise<ImageBitmap>>();

  /** Exchanges the token in the address for a secret, which this tab keeps when it is reloaded. */
  async signIn(): Promise<void> {
    const token = location.hash.slice(1);
    if (token) {
      const { secret } = await this.json<{ secret: string }>("POST", "/api/session", { token });
      sessionStorage.setItem(SECRET_KEY, secret);
      // Not before: who reloads the page meanwhile still needs the token.
      history.replaceState(null, "", location.pathname);
    }
    const kept = sessionStorage.getItem(SECRET_KEY);
    if (!kept) throw new Refusal(401, "This address has no token; open the one that longlive-rag studio printed");
    this.secret = kept;
  }

  studio = () => this.json<Studio>("GET", "/api/studio");
  takes = (search: string) =>
    this.json<{ takes: Take[]; left_out: LeftOut[] }>("GET", `/api/takes?search=${encodeURIComponent(search)}`);
  /** Moments of all takes that look most like a made frame. */
  like = (id: string, frame: number) =>
    this.json<{ hits: FrameHit[] }>("GET", `/api/takes/${id}/like?frame=${frame}`).then((answer) => answer.hits);
  take = (id: string) => this.json<TakeDetail>("GET", `/api/takes/${id}`);
  drift = (id: string, embedder: string) =>
    this.json<Drift>("GET", `/api/takes/${id}/drift?embedder=${encodeURIComponent(embedder)}`);
  /** The words of a prompt that a backbone has never read. */
  unknownWords = (backbone: string, prompt: string) =>
    this.json<{ unknown_words: string[] }>("POST", `/api/backbones/${encodeURIComponent(backbone)}/words`, { prompt }).then(
      (answer) => answer.unknown_words,
    );
  begin = (take: NewTake) => this.json<{ id: string }>("POST", "/api/takes", take);
  command = (id: string, command: Command) => this.json<Answer>("POST", `/api/takes/${id}/commands`, command);

  async upload(picture: Blob): Promise<{ id: string; width: number; height: number }> {
    return (await this.request("POST", "/api/uploads", picture, picture.type)).json();
  }

  /** The file, and the name that the server gave it. */
  async exported(id: string, what: Exported, from: number, to: number): Promise<{ name: string; file: Blob }> {
    const body = JSON.stringify({ what, from, to });
    const response = await this.request("POST", `/api/takes/${id}/export`, body, "application/json");
    return { name: fileName(response) ?? what, file: await response.blob() };
  }

  async bytes(url: string): Promise<ArrayBuffer> {
    const response = await this.request("GET", url, undefined, undefined, AbortSignal.timeout(STALLED_MS));
    return response.arrayBuffer().catch(() => {
      throw new Refusal(0, NO_ANSWER);
    });
  }

  /** A made frame. Pictures are fetched, since an `<img>` could not send the secret. */
  picture(take: string, frame: number, width: number): Promise<ImageBitmap> {
    const url = `/api/takes/${take}/frame/${frame}.jpg?width=${width}`;
    let picture = this.pictures.get(url);
    if (!picture) {
      picture = this.request("GET", url)
        .then((response) => response.blob())
        .then(createImageBitmap);
      picture.catch(() => this.pictures.delete(url));
      this.pictures.set(url, picture);
      if (this.pictures.size > PICTURES_KEPT) this.pictures.delete(this.pictures.keys().next().value!);
    }
    return picture;
  }

  /** Made frames of a take are other ones now: it was cut. */
  forgetPictures(take: string): void {
    for (const url of this.pictures.keys()) {
      if (url.startsWith(`/api/takes/${take}/`)) this.pictures.delete(url);
    }
  }

  /** Listens for events for as long as the page is open, and connects again when the server went away; says why it isn't connected. */
  listen(onEvent: (event: StudioEvent) => void, onConnected: (connected: boolean, why: string) => void): void {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/events`);
    this.socket = socket;
    socket.onopen = () => socket.send(JSON.stringify({ secret: this.secret }));
    socket.onmessage = (message) => {
      const event = JSON.parse(message.data) as StudioEvent;
      if (event.type === "hello") onConnected(true, "");
      onEvent(event);
    };
    socket.onclose = ({ code, reason }) => {
      const knowsUs = code !== NOT_LET_IN;
      onConnected(false, knowsUs ? reason || NO_ANSWER : STARTED_AGAIN);
      if (knowsUs) setTimeout(() => this.listen(onEvent, onConnected), RECONNECT_MS);
    };
  }

  tell(message: ClientMessage): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private async json<T>(method: string, url: string, body?: object): Promise<T> {
    return (await this.request(method, url, body && JSON.stringify(body), body && "application/json")).json();
  }

  private async request(method: string, url: string, body?: BodyInit, type?: string, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = this.secret ? { Authorization: `Bearer ${this.secret}` } : {};
    if (type) headers["Content-Type"] = type;
    const response = await fetch(url, { method, headers, body, signal }).catch(() => {
      throw new Refusal(0, NO_ANSWER);
    });
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

/** The name that a download is sent with: in UTF-8 where it has letters beyond ASCII. */
function fileName(response: Response): string | undefined {
  const header = response.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=utf-8''([^;]+)/i.exec(header)?.[1];
  return encoded ? decodeURIComponent(encoded) : /filename="([^"]+)"/.exec(header)?.[1];
}

async function refusal(response: Response): Promise<Refusal> {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}`;
  return new Refusal(response.status, message, body?.error?.fields ?? []);
}

export const api = new Api();
