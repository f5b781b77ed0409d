var e=globalThis,t=e.ShadowRoot&&(e.ShadyCSS===void 0||e.ShadyCSS.nativeShadow)&&`adoptedStyleSheets`in Document.prototype&&`replace`in CSSStyleSheet.prototype,n=Symbol(),r=new WeakMap,i=class{constructor(e,t,r){if(this._$cssResult$=!0,r!==n)throw Error("CSSResult is not constructable. Use `unsafeCSS` or `css` instead.");this.cssText=e,this.t=t}get styleSheet(){let e=this.o,n=this.t;if(t&&e===void 0){let t=n!==void 0&&n.length===1;t&&(e=r.get(n)),e===void 0&&((this.o=e=new CSSStyleSheet).replaceSync(this.cssText),t&&r.set(n,e))}return e}toString(){return this.cssText}},a=e=>new i(typeof e==`string`?e:e+``,void 0,n),o=(e,...t)=>new i(e.length===1?e[0]:t.reduce((t,n,r)=>t+(e=>{if(!0===e._$cssResult$)return e.cssText;if(typeof e==`number`)return e;throw Error(`Value passed to 'css' function must be a 'css' function result: `+e+`. Use 'unsafeCSS' to pass non-literal values, but take care to ensure page security.`)})(n)+e[r+1],e[0]),e,n),s=(n,r)=>{if(t)n.adoptedStyleSheets=r.map(e=>e instanceof CSSStyleSheet?e:e.styleSheet);else for(let t of r){let r=document.createElement(`style`),i=e.litNonce;i!==void 0&&r.setAttribute(`nonce`,i),r.textContent=t.cssText,n.appendChild(r)}},c=t?e=>e:e=>e instanceof CSSStyleSheet?(e=>{let t=``;for(let n of e.cssRules)t+=n.cssText;return a(t)})(e):e,{is:l,defineProperty:u,getOwnPropertyDescriptor:d,getOwnPropertyNames:f,getOwnPropertySymbols:p,getPrototypeOf:m}=Object,h=globalThis,ee=h.trustedTypes,te=ee?ee.emptyScript:``,ne=h.reactiveElementPolyfillSupport,g=(e,t)=>e,re={toAttribute(e,t){switch(t){case Boolean:e=e?te:null;break;case Object:case Array:e=e==null?e:JSON.stringify(e)}return e},fromAttribute(e,t){let n=e;switch(t){case Boolean:n=e!==null;break;case Number:n=e===null?null:Number(e);break;case Object:case Array:try{n=JSON.parse(e)}catch{n=null}}return n}},ie=(e,t)=>!l(e,t),ae={attribute:!0,type:String,converter:re,reflect:!1,useDefault:!1,hasChanged:ie};Symbol.metadata??=Symbol(`metadata`),h.litPropertyMetadata??=new WeakMap;var _=class extends HTMLElement{static addInitializer(e){this._$Ei(),(this.l??=[]).push(e)}static get observedAttributes(){return this.finalize(),this._$Eh&&[...this._$Eh.keys()]}static createProperty(e,t=ae){if(t.state&&(t.attribute=!1),this._$Ei(),this.prototype.hasOwnProperty(e)&&((t=Object.create(t)).wrapped=!0),this.elementProperties.set(e,t),!t.noAccessor){let n=Symbol(),r=this.getPropertyDescriptor(e,n,t);r!==void 0&&u(this.prototype,e,r)}}static getPropertyDescriptor(e,t,n){let{get:r,set:i}=d(this.prototype,e)??{get(){return this[t]},set(e){this[t]=e}};return{get:r,set(t){let a=r?.call(this);i?.call(this,t),this.requestUpdate(e,a,n)},configurable:!0,enumerable:!0}}static getPropertyOptions(e){return this.elementProperties.get(e)??ae}static _$Ei(){if(this.hasOwnProperty(g(`elementProperties`)))return;let e=m(this);e.finalize(),e.l!==void 0&&(this.l=[...e.l]),this.elementProperties=new Map(e.elementProperties)}static finalize(){if(this.hasOwnProperty(g(`finalized`)))return;if(this.finalized=!0,this._$Ei(),this.hasOwnProperty(g(`properties`))){let e=this.properties,t=[...f(e),...p(e)];for(let n of t)this.createProperty(n,e[n])}let e=this[Symbol.metadata];if(e!==null){let t=litPropertyMetadata.get(e);if(t!==void 0)for(let[e,n]of t)this.elementProperties.set(e,n)}this._$Eh=new Map;for(let[e,t]of this.elementProperties){let n=this._$Eu(e,t);n!==void 0&&this._$Eh.set(n,e)}this.elementStyles=this.finalizeStyles(this.styles)}static finalizeStyles(e){let t=[];if(Array.isArray(e)){let n=new Set(e.flat(1/0).reverse());for(let e of n)t.unshift(c(e))}else e!==void 0&&t.push(c(e));return t}static _$Eu(e,t){let n=t.attribute;return!1===n?void 0:typeof n==`string`?n:typeof e==`string`?e.toLowerCase():void 0}constructor(){super(),this._$Ep=void 0,this.isUpdatePending=!1,this.hasUpdated=!1,this._$Em=null,this._$Ev()}_$Ev(){this._$ES=new Promise(e=>this.enableUpdating=e),this._$AL=new Map,this._$E_(),this.requestUpdate(),this.constructor.l?.forEach(e=>e(this))}addController(e){(this._$EO??=new Set).add(e),this.renderRoot!==void 0&&this.isConnected&&e.hostConnected?.()}removeController(e){this._$EO?.delete(e)}_$E_(){let e=new Map,t=this.constructor.elementProperties;for(let n of t.keys())this.hasOwnProperty(n)&&(e.set(n,this[n]),delete this[n]);e.size>0&&(this._$Ep=e)}createRenderRoot(){let e=this.shadowRoot??this.attachShadow(this.constructor.shadowRootOptions);return s(e,this.constructor.elementStyles),e}connectedCallback(){this.renderRoot??=this.createRenderRoot(),this.enableUpdating(!0),this._$EO?.forEach(e=>e.hostConnected?.())}enableUpdating(e){}disconnectedCallback(){this._$EO?.forEach(e=>e.hostDisconnected?.())}attributeChangedCallback(e,t,n){this._$AK(e,n)}_$ET(e,t){let n=this.constructor.elementProperties.get(e),r=this.constructor._$Eu(e,n);if(r!==void 0&&!0===n.reflect){let i=(n.converter?.toAttribute===void 0?re:n.converter).toAttribute(t,n.type);this._$Em=e,i==null?this.removeAttribute(r):this.setAttribute(r,i),this._$Em=null}}_$AK(e,t){let n=this.constructor,r=n._$Eh.get(e);if(r!==void 0&&this._$Em!==r){let e=n.getPropertyOptions(r),i=typeof e.converter==`function`?{fromAttribute:e.converter}:e.converter?.fromAttribute===void 0?re:e.converter;this._$Em=r;let a=i.fromAttribute(t,e.type);this[r]=a??this._$Ej?.get(r)??a,this._$Em=null}}requestUpdate(e,t,n,r=!1,i){if(e!==void 0){let a=this.constructor;if(!1===r&&(i=this[e]),n??=a.getPropertyOptions(e),!((n.hasChanged??ie)(i,t)||n.useDefault&&n.reflect&&i===this._$Ej?.get(e)&&!this.hasAttribute(a._$Eu(e,n))))return;this.C(e,t,n)}!1===this.isUpdatePending&&(this._$ES=this._$EP())}C(e,t,{useDefault:n,reflect:r,wrapped:i},a){n&&!(this._$Ej??=new Map).has(e)&&(this._$Ej.set(e,a??t??this[e]),!0!==i||a!==void 0)||(this._$AL.has(e)||(this.hasUpdated||n||(t=void 0),this._$AL.set(e,t)),!0===r&&this._$Em!==e&&(this._$Eq??=new Set).add(e))}async _$EP(){this.isUpdatePending=!0;try{await this._$ES}catch(e){Promise.reject(e)}let e=this.scheduleUpdate();return e!=null&&await e,!this.isUpdatePending}scheduleUpdate(){return this.performUpdate()}performUpdate(){if(!this.isUpdatePending)return;if(!this.hasUpdated){if(this.renderRoot??=this.createRenderRoot(),this._$Ep){for(let[e,t]of this._$Ep)this[e]=t;this._$Ep=void 0}let e=this.constructor.elementProperties;if(e.size>0)for(let[t,n]of e){let{wrapped:e}=n,r=this[t];!0!==e||this._$AL.has(t)||r===void 0||this.C(t,void 0,n,r)}}let e=!1,t=this._$AL;try{e=this.shouldUpdate(t),e?(this.willUpdate(t),this._$EO?.forEach(e=>e.hostUpdate?.()),this.update(t)):this._$EM()}catch(t){throw e=!1,this._$EM(),t}e&&this._$AE(t)}willUpdate(e){}_$AE(e){this._$EO?.forEach(e=>e.hostUpdated?.()),this.hasUpdated||(this.hasUpdated=!0,this.firstUpdated(e)),this.updated(e)}_$EM(){this._$AL=new Map,this.isUpdatePending=!1}get updateComplete(){return this.getUpdateComplete()}getUpdateComplete(){return this._$ES}shouldUpdate(e){return!0}update(e){this._$Eq&&=this._$Eq.forEach(e=>this._$ET(e,this[e])),this._$EM()}updated(e){}firstUpdated(e){}};_.elementStyles=[],_.shadowRootOptions={mode:`open`},_[g(`elementProperties`)]=new Map,_[g(`finalized`)]=new Map,ne?.({ReactiveElement:_}),(h.reactiveElementVersions??=[]).push(`2.1.2`);var oe=globalThis,se=e=>e,ce=oe.trustedTypes,le=ce?ce.createPolicy(`lit-html`,{createHTML:e=>e}):void 0,ue=`$lit$`,v=`lit$${Math.random().toFixed(9).slice(2)}$`,de=`?`+v,fe=`<${de}>`,y=document,b=()=>y.createComment(``),x=e=>e===null||typeof e!=`object`&&typeof e!=`function`,pe=Array.isArray,me=e=>pe(e)||typeof e?.[Symbol.iterator]==`function`,he=`[ 	
\f\r]`,S=/<(?:(!--|\/[^a-zA-Z])|(\/?[a-zA-Z][^>\s]*)|(\/?$))/g,ge=/-->/g,_e=/>/g,C=RegExp(`>|${he}(?:([^\\s"'>=/]+)(${he}*=${he}*(?:[^ \t\n\f\r"'\`<>=]|("|')|))|$)`,`g`),ve=/'/g,ye=/"/g,be=/^(?:script|style|textarea|title)$/i,xe=e=>(t,...n)=>({_$litType$:e,strings:t,values:n}),w=xe(1),T=xe(2),E=Symbol.for(`lit-noChange`),D=Symbol.for(`lit-nothing`),Se=new WeakMap,O=y.createTreeWalker(y,129);function Ce(e,t){if(!pe(e)||!e.hasOwnProperty(`raw`))throw Error(`invalid template strings array`);return le===void 0?t:le.createHTML(t)}var we=(e,t)=>{let n=e.length-1,r=[],i,a=t===2?`<svg>`:t===3?`<math>`:``,o=S;for(let t=0;t<n;t++){let n=e[t],s,c,l=-1,u=0;for(;u<n.length&&(o.lastIndex=u,c=o.exec(n),c!==null);)u=o.lastIndex,o===S?c[1]===`!--`?o=ge:c[1]===void 0?c[2]===void 0?c[3]!==void 0&&(o=C):(be.test(c[2])&&(i=RegExp(`</`+c[2],`g`)),o=C):o=_e:o===C?c[0]===`>`?(o=i??S,l=-1):c[1]===void 0?l=-2:(l=o.lastIndex-c[2].length,s=c[1],o=c[3]===void 0?C:c[3]===`"`?ye:ve):o===ye||o===ve?o=C:o===ge||o===_e?o=S:(o=C,i=void 0);let d=o===C&&e[t+1].startsWith(`/>`)?` `:``;a+=o===S?n+fe:l>=0?(r.push(s),n.slice(0,l)+ue+n.slice(l)+v+d):n+v+(l===-2?t:d)}return[Ce(e,a+(e[n]||`<?>`)+(t===2?`</svg>`:t===3?`</math>`:``)),r]},Te=class e{constructor({strings:t,_$litType$:n},r){let i;this.parts=[];let a=0,o=0,s=t.length-1,c=this.parts,[l,u]=we(t,n);if(this.el=e.createElement(l,r),O.currentNode=this.el.content,n===2||n===3){let e=this.el.content.firstChild;e.replaceWith(...e.childNodes)}for(;(i=O.nextNode())!==null&&c.length<s;){if(i.nodeType===1){if(i.hasAttributes())for(let e of i.getAttributeNames())if(e.endsWith(ue)){let t=u[o++],n=i.getAttribute(e).split(v),r=/([.?@])?(.*)/.exec(t);c.push({type:1,index:a,name:r[2],strings:n,ctor:r[1]===`.`?De:r[1]===`?`?Oe:r[1]===`@`?ke:j}),i.removeAttribute(e)}else e.startsWith(v)&&(c.push({type:6,index:a}),i.removeAttribute(e));if(be.test(i.tagName)){let e=i.textContent.split(v),t=e.length-1;if(t>0){i.textContent=ce?ce.emptyScript:``;for(let n=0;n<t;n++)i.append(e[n],b()),O.nextNode(),c.push({type:2,index:++a});i.append(e[t],b())}}}else if(i.nodeType===8){if(i.data===de)c.push({type:2,index:a});else{let e=-1;for(;(e=i.data.indexOf(v,e+1))!==-1;)c.push({type:7,index:a}),e+=v.length-1}}a++}}static createElement(e,t){let n=y.createElement(`template`);return n.innerHTML=e,n}};function k(e,t,n=e,r){if(t===E)return t;let i=r===void 0?n._$Cl:n._$Co?.[r],a=x(t)?void 0:t._$litDirective$;return i?.constructor!==a&&(i?._$AO?.(!1),a===void 0?i=void 0:(i=new a(e),i._$AT(e,n,r)),r===void 0?n._$Cl=i:(n._$Co??=[])[r]=i),i!==void 0&&(t=k(e,i._$AS(e,t.values),i,r)),t}var Ee=class{constructor(e,t){this._$AV=[],this._$AN=void 0,this._$AD=e,this._$AM=t}get parentNode(){return this._$AM.parentNode}get _$AU(){return this._$AM._$AU}u(e){let{el:{content:t},parts:n}=this._$AD,r=(e?.creationScope??y).importNode(t,!0);O.currentNode=r;let i=O.nextNode(),a=0,o=0,s=n[0];for(;s!==void 0;){if(a===s.index){let t;s.type===2?t=new A(i,i.nextSibling,this,e):s.type===1?t=new s.ctor(i,s.name,s.strings,this,e):s.type===6&&(t=new Ae(i,this,e)),this._$AV.push(t),s=n[++o]}a!==s?.index&&(i=O.nextNode(),a++)}return O.currentNode=y,r}p(e){let t=0;for(let n of this._$AV)n!==void 0&&(n.strings===void 0?n._$AI(e[t]):(n._$AI(e,n,t),t+=n.strings.length-2)),t++}},A=class e{get _$AU(){return this._$AM?._$AU??this._$Cv}constructor(e,t,n,r){this.type=2,this._$AH=D,this._$AN=void 0,this._$AA=e,this._$AB=t,this._$AM=n,this.options=r,this._$Cv=r?.isConnected??!0}get parentNode(){let e=this._$AA.parentNode,t=this._$AM;return t!==void 0&&e?.nodeType===11&&(e=t.parentNode),e}get startNode(){return this._$AA}get endNode(){return this._$AB}_$AI(e,t=this){e=k(this,e,t),x(e)?e===D||e==null||e===``?(this._$AH!==D&&this._$AR(),this._$AH=D):e!==this._$AH&&e!==E&&this._(e):e._$litType$===void 0?e.nodeType===void 0?me(e)?this.k(e):this._(e):this.T(e):this.$(e)}O(e){return this._$AA.parentNode.insertBefore(e,this._$AB)}T(e){this._$AH!==e&&(this._$AR(),this._$AH=this.O(e))}_(e){this._$AH!==D&&x(this._$AH)?this._$AA.nextSibling.data=e:this.T(y.createTextNode(e)),this._$AH=e}$(e){let{values:t,_$litType$:n}=e,r=typeof n==`number`?this._$AC(e):(n.el===void 0&&(n.el=Te.createElement(Ce(n.h,n.h[0]),this.options)),n);if(this._$AH?._$AD===r)this._$AH.p(t);else{let e=new Ee(r,this),n=e.u(this.options);e.p(t),this.T(n),this._$AH=e}}_$AC(e){let t=Se.get(e.strings);return t===void 0&&Se.set(e.strings,t=new Te(e)),t}k(t){pe(this._$AH)||(this._$AH=[],this._$AR());let n=this._$AH,r,i=0;for(let a of t)i===n.length?n.push(r=new e(this.O(b()),this.O(b()),this,this.options)):r=n[i],r._$AI(a),i++;i<n.length&&(this._$AR(r&&r._$AB.nextSibling,i),n.length=i)}_$AR(e=this._$AA.nextSibling,t){for(this._$AP?.(!1,!0,t);e!==this._$AB;){let t=se(e).nextSibling;se(e).remove(),e=t}}setConnected(e){this._$AM===void 0&&(this._$Cv=e,this._$AP?.(e))}},j=class{get tagName(){return this.element.tagName}get _$AU(){return this._$AM._$AU}constructor(e,t,n,r,i){this.type=1,this._$AH=D,this._$AN=void 0,this.element=e,this.name=t,this._$AM=r,this.options=i,n.length>2||n[0]!==``||n[1]!==``?(this._$AH=Array(n.length-1).fill(new String),this.strings=n):this._$AH=D}_$AI(e,t=this,n,r){let i=this.strings,a=!1;if(i===void 0)e=k(this,e,t,0),a=!x(e)||e!==this._$AH&&e!==E,a&&(this._$AH=e);else{let r=e,o,s;for(e=i[0],o=0;o<i.length-1;o++)s=k(this,r[n+o],t,o),s===E&&(s=this._$AH[o]),a||=!x(s)||s!==this._$AH[o],s===D?e=D:e!==D&&(e+=(s??``)+i[o+1]),this._$AH[o]=s}a&&!r&&this.j(e)}j(e){e===D?this.element.removeAttribute(this.name):this.element.setAttribute(this.name,e??``)}},De=class extends j{constructor(){super(...arguments),this.type=3}j(e){this.element[this.name]=e===D?void 0:e}},Oe=class extends j{constructor(){super(...arguments),this.type=4}j(e){this.element.toggleAttribute(this.name,!!e&&e!==D)}},ke=class extends j{constructor(e,t,n,r,i){super(e,t,n,r,i),this.type=5}_$AI(e,t=this){if((e=k(this,e,t,0)??D)===E)return;let n=this._$AH,r=e===D&&n!==D||e.capture!==n.capture||e.once!==n.once||e.passive!==n.passive,i=e!==D&&(n===D||r);r&&this.element.removeEventListener(this.name,this,n),i&&this.element.addEventListener(this.name,this,e),this._$AH=e}handleEvent(e){typeof this._$AH==`function`?this._$AH.call(this.options?.host??this.element,e):this._$AH.handleEvent(e)}},Ae=class{constructor(e,t,n){this.element=e,this.type=6,this._$AN=void 0,this._$AM=t,this.options=n}get _$AU(){return this._$AM._$AU}_$AI(e){k(this,e)}},je={M:ue,P:v,A:de,C:1,L:we,R:Ee,D:me,V:k,I:A,H:j,N:Oe,U:ke,B:De,F:Ae},Me=oe.litHtmlPolyfillSupport;Me?.(Te,A),(oe.litHtmlVersions??=[]).push(`3.3.3`);var Ne=(e,t,n)=>{let r=n?.renderBefore??t,i=r._$litPart$;if(i===void 0){let e=n?.renderBefore??null;r._$litPart$=i=new A(t.insertBefore(b(),e),e,void 0,n??{})}return i._$AI(e),i},Pe=globalThis,M=class extends _{constructor(){super(...arguments),this.renderOptions={host:this},this._$Do=void 0}createRenderRoot(){let e=super.createRenderRoot();return this.renderOptions.renderBefore??=e.firstChild,e}update(e){let t=this.render();this.hasUpdated||(this.renderOptions.isConnected=this.isConnected),super.update(e),this._$Do=Ne(t,this.renderRoot,this.renderOptions)}connectedCallback(){super.connectedCallback(),this._$Do?.setConnected(!0)}disconnectedCallback(){super.disconnectedCallback(),this._$Do?.setConnected(!1)}render(){return E}};M._$litElement$=!0,M.finalized=!0,Pe.litElementHydrateSupport?.({LitElement:M});var Fe=Pe.litElementPolyfillSupport;Fe?.({LitElement:M}),(Pe.litElementVersions??=[]).push(`4.2.2`);var Ie=`The studio's server does not answer; is it still running?`,Le=`The studio was started again; open the address that it printed`,Re=`studio-secret`,ze=1008,Be=1e3,Ve=400,He=2e4,N=class extends Error{constructor(e,t,n=[]){super(t),this.status=e,this.fields=n}},Ue=class{constructor(){this.secret=``,this.socket=null,this.pictures=new Map,this.studio=()=>this.json(`GET`,`/api/studio`),this.takes=e=>this.json(`GET`,`/api/takes?search=${encodeURIComponent(e)}`),this.like=(e,t)=>this.json(`GET`,`/api/takes/${e}/like?frame=${t}`).then(e=>e.hits),this.take=e=>this.json(`GET`,`/api/takes/${e}`),this.drift=(e,t)=>this.json(`GET`,`/api/takes/${e}/drift?embedder=${encodeURIComponent(t)}`),this.unknownWords=(e,t)=>this.json(`POST`,`/api/backbones/${encodeURIComponent(e)}/words`,{prompt:t}).then(e=>e.unknown_words),this.begin=e=>this.json(`POST`,`/api/takes`,e),this.command=(e,t)=>this.json(`POST`,`/api/takes/${e}/commands`,t)}async signIn(){let e=location.hash.slice(1);if(e){let{secret:t}=await this.json(`POST`,`/api/session`,{token:e});sessionStorage.setItem(Re,t),history.replaceState(null,``,location.pathname)}let t=sessionStorage.getItem(Re);if(!t)throw new N(401,`This address has no token; open the one that longlive-rag studio printed`);this.secret=t}async upload(e){return(await this.request(`POST`,`/api/uploads`,e,e.type)).json()}async exported(e,t,n,r){let i=JSON.stringify({what:t,from:n,to:r}),a=await this.request(`POST`,`/api/takes/${e}/export`,i,`application/json`);return{name:We(a)??t,file:await a.blob()}}async bytes(e){return(await this.request(`GET`,e,void 0,void 0,AbortSignal.timeout(He))).arrayBuffer().catch(()=>{throw new N(0,Ie)})}picture(e,t,n){let r=`/api/takes/${e}/frame/${t}.jpg?width=${n}`,i=this.pictures.get(r);return i||(i=this.request(`GET`,r).then(e=>e.blob()).then(createImageBitmap),i.catch(()=>this.pictures.delete(r)),this.pictures.set(r,i),this.pictures.size>Ve&&this.pictures.delete(this.pictures.keys().next().value)),i}forgetPictures(e){for(let t of this.pictures.keys())t.startsWith(`/api/takes/${e}/`)&&this.pictures.delete(t)}listen(e,t){let n=location.protocol===`https:`?`wss`:`ws`,r=new WebSocket(`${n}://${location.host}/api/events`);this.socket=r,r.onopen=()=>r.send(JSON.stringify({secret:this.secret})),r.onmessage=n=>{let r=JSON.parse(n.data);r.type===`hello`&&t(!0,``),e(r)},r.onclose=({code:n,reason:r})=>{let i=n!==ze;t(!1,i?r||Ie:Le),i&&setTimeout(()=>this.listen(e,t),Be)}}tell(e){this.socket?.readyState===WebSocket.OPEN&&this.socket.send(JSON.stringify(e))}async json(e,t,n){return(await this.request(e,t,n&&JSON.stringify(n),n&&`application/json`)).json()}async request(e,t,n,r,i){let a=this.secret?{Authorization:`Bearer ${this.secret}`}:{};r&&(a[`Content-Type`]=r);let o=await fetch(t,{method:e,headers:a,body:n,signal:i}).catch(()=>{throw new N(0,Ie)});if(!o.ok)throw await Ge(o);return o}};function We(e){let t=e.headers.get(`Content-Disposition`)??``,n=/filename\*=utf-8''([^;]+)/i.exec(t)?.[1];return n?decodeURIComponent(n):/filename="([^"]+)"/.exec(t)?.[1]}async function Ge(e){let t=await e.json().catch(()=>null),n=t?.error?.message??`The server answered ${e.status} ${e.statusText}`;return new N(e.status,n,t?.error?.fields??[])}var P=new Ue,Ke=`tiny-world`,qe=class{constructor(){this.state={connected:null,studio:null,takes:[],leftOut:[],search:``,matches:null,found:null,take:null,stats:null,frame:0,jumps:0,rate:0,following:!1,busy:!1,pace:1,markIn:null,markOut:null,dialog:null,deleting:null,compared:null,embedder:null,drifts:{},alerts:[],note:``,guided:null},this.listeners=new Set,this.alertsSoFar=0}update(e){let t=Object.keys(e),n=new Set(t.filter(t=>e[t]!==this.state[t]));if(n.size){this.state={...this.state,...e};for(let e of[...this.listeners])e(n)}}subscribe(e){return this.listeners.add(e),()=>this.listeners.delete(e)}alert(e,{remedy:t,about:n}={}){this.withdraw(e),n&&this.triedAgain(n),this.update({alerts:[...this.state.alerts,{number:this.alertsSoFar++,message:e,remedy:t,about:n}]})}triedAgain(e){this.update({alerts:this.state.alerts.filter(t=>t.about!==e)})}withdraw(e){this.update({alerts:this.state.alerts.filter(t=>t.message!==e)})}dismiss(e){this.update({alerts:this.state.alerts.filter(t=>t.number!==e)})}receive(e){let{take:t,studio:n}=this.state,r=t&&`take`in e&&e.take===t.id?t:null;switch(e.type){case`hello`:n&&this.update({studio:{...n,live:e.live}});break;case`block`:r&&this.receiveBlock(r,e);break;case`cut`:r&&this.update({take:Ye(r,e.blocks)});break;case`take`:this.receiveFacts(e.take);break;case`left_out`:this.receiveLeftOut(e.take);break;case`gone`:this.receiveGone(e.take,e.deleted);break;case`cues`:r&&this.update({take:{...r,cues:e.cues}});break;case`steering`:r&&this.update({take:{...r,steering:e.steering}});break;case`note`:this.update({note:e.message});break;case`error`:this.alert(e.message)}}receiveLeftOut(e){let t=t=>t.filter(({id:t})=>t!==e.id);this.update({takes:t(this.state.takes),leftOut:[...t(this.state.leftOut),e]})}receiveGone(e,t){let{take:n,takes:r,leftOut:i,compared:a}=this.state;this.update({takes:r.filter(t=>t.id!==e),leftOut:i.filter(t=>t.id!==e),compared:a?.filter(t=>t!==e)??null});let o=[...r,...i].find(t=>t.id===e)?.name;t&&o&&this.update({note:`${o} was deleted`}),n?.id===e&&(this.update({take:null,frame:0,rate:0,stats:null,compared:null,markIn:null,markOut:null}),t||this.alert(`${n.name} is not on the disk any more`))}receiveBlock(e,t){let n=Je(e,t),{frames:r,blocks:i,made_seconds:a}=n,o=this.state.takes.map(e=>e.id===n.id?{...e,frames:r,blocks:i,made_seconds:a}:e);this.update({take:n,takes:o,stats:t.stats})}receiveFacts(e){let{take:t,takes:n,leftOut:r}=this.state,i=n.some(t=>t.id===e.id);this.update({takes:i?n.map(t=>t.id===e.id?e:t):[e,...n],leftOut:r.filter(t=>t.id!==e.id)}),t?.id===e.id&&this.receiveFactsOfOpen(t,e)}receiveFactsOfOpen(e,t){let{frame:n,rate:r,following:i}=this.state,{frames:a,blocks:o,made_seconds:s}=e,c=t.status===`live`,l=c?e.cues:e.cues.map(e=>({...e,planned_id:null})),u=e.waiting&&!t.waiting&&c,d=!c&&r>0&&n>=a-1;this.update({take:{...e,...t,cues:l,frames:a,blocks:o,made_seconds:s},rate:u?1:d?0:r,following:i&&c})}};function Je(e,t){let n=Ye(e,t.segment.block),r=t.memory?[...n.memory,t.memory]:n.memory;return Xe({...n,memory:r},[...n.segments,t.segment])}function Ye(e,t){let n=e.memory.filter(e=>e.block<t);return Xe({...e,memory:n},e.segments.filter(e=>e.block<t))}function Xe(e,t){let n=t.at(-1),r=n?n.first_frame+n.frames:0;return{...e,segments:t,frames:r,blocks:t.length,made_seconds:r/e.fps}}function Ze({takes:e,matches:t}){return(t?.map(t=>e.find(e=>e.id===t)))?.filter(e=>e!==void 0)??e}function F(e,t){let n=0,r=e.length;for(;n<r;){let i=n+r>>1;e[i].first_frame<=t?n=i+1:r=i}return e[Math.max(0,n-1)]}function Qe(e,t){let n=t*e.fps-1e-6,r=e.segments.findIndex(e=>e.first_frame>=n);return r<0?e.blocks:Math.max(1,r)}function I(e){return Math.max(e.seconds,e.made_seconds,1/e.fps)}function $e(e,t){return e.cues.filter(e=>e.reached&&e.seconds<=t).sort((e,t)=>e.seconds-t.seconds).at(-1)?.prompt??e.prompt}function et(e,t){let n=[];for(let r of e.steering){let e=n.filter(([e,t])=>e!==r.start||t!==r.end);r.verb===t&&(n=[...e,[r.start,r.end]]),r.verb===`un${t}`&&(n=e)}return n}function tt(e,t){let n=e.steering.findLast(e=>e.verb===`policy`&&e.seconds<=t),r=e.request.memory;return n?.policy??r?.policy??``}function nt(e){return e.request.memory?.enabled!==!1}function rt(e,t){let n=t?.embedders??[];return e.backbone===Ke?n:n.filter(({name:e})=>e!==Ke)}function it(e,{studio:t,embedder:n}){let r=rt(e,t),i=[r.find(({name:e})=>e===Ke),r.find(({independent:e})=>e),r[0]];return r.find(({name:e})=>e===n)??i.find(e=>e)}function at(e,t){return`${e.id}/${e.frames}/${t}`}function L(e,t){let n=it(e,t);return n&&t.drifts[at(e,n.name)]}function ot(e){let t=e.take,n=e.markIn??0,r=e.markOut??t.frames-1;return[n/t.fps,(r+1)/t.fps]}var R=new qe,st=/^(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d*)?|\.\d+)$/,ct=/^(\d{1,6}):(\d{1,6}):(\d{1,6}):(\d{1,6})$/;function lt(e,t){let n=e.trim(),r=ct.exec(n);if(r){let[e,n,i,a]=r.slice(1).map(Number);return n>=60||i>=60||a>=t?null:e*3600+n*60+i+a/t}let i=st.exec(n);if(!i)return null;let a=Number(i[1]??0),o=Number(i[2]??0),s=Number(i[3]);return i[1]&&o>=60||i[2]&&s>=60?null:a*3600+o*60+s}function ut(e,t){let n=Math.floor(e/t);return[Math.floor(n/3600),Math.floor(n/60)%60,n%60,e%t].map(e=>String(e).padStart(2,`0`)).join(`:`)}function z(e){let t=Math.round(e*10),n=Math.floor(t/10);return`${Math.floor(n/60)}:${String(n%60).padStart(2,`0`)}.${t%10}`}function dt(e){return e<2**30?`${(e/2**20).toFixed(0)} MiB`:`${(e/2**30).toFixed(1)} GiB`}var ft={prompt:`a blue square stands in a desert`,seconds:30,seed:`1`,backbone:`tiny-world`,memory:null,start_image:null,remember:[],settings:{},cues:[{seconds:8,prompt:`a blue square leaves in a desert`},{seconds:20,prompt:`a blue square returns in a desert`}]},pt={at:`“Takes over at”`};function mt(e){if(!(e instanceof Error))return String(e);let t=e instanceof N&&e.fields[0]?.field||``,n=pt[t];return n&&e.message.startsWith(`${t} `)?n+e.message.slice(t.length):e.message}async function B(e,t){t&&R.triedAgain(t);try{return await e()}catch(e){return R.alert(mt(e),{about:t}),null}}async function ht(){await B(async()=>{await P.signIn();let[e,{takes:t,left_out:n}]=await Promise.all([P.studio(),P.takes(``)]);R.update({studio:e,takes:t,leftOut:n}),P.listen(e=>{e.type===`cut`&&P.forgetPictures(e.take),yt(e)?V():R.receive(e)},(e,t)=>void xt(e,t));let r=vt();r&&R.update({pace:r.pace});let i=t.find(e=>e.name===r?.name),a=i??t.find(t=>t.id===e.live)??t[0];a&&await H(a.id,i?r.frame:0)})}var gt=`studio-open`;function _t(){let{take:e,frame:t,pace:n}=R.state;e&&sessionStorage.setItem(gt,JSON.stringify({name:e.name,frame:t,pace:n}))}function vt(){return JSON.parse(sessionStorage.getItem(gt)??`null`)}function yt(e){let{take:t}=R.state;return e.type===`block`&&e.take===t?.id&&e.segment.block>t.segments.length}var bt=``;async function xt(e,t){if(t!==bt&&(R.withdraw(bt),t&&R.alert(t),bt=t),R.update({connected:e}),!e)return;let{take:n,search:r}=R.state;n&&P.tell({type:`watch`,take:n.id}),await V();let i=await B(()=>P.takes(``));i&&R.update({takes:i.takes,leftOut:i.left_out}),r&&await St(r)}async function V(){let{take:e}=R.state,t=e&&await P.take(e.id).catch(()=>null);if(t&&R.state.take?.id===t.id){if(R.state.take!==e)return V();R.update({take:t})}}async function St(e){R.update({search:e});let t=Ct.test(e)?await B(()=>P.takes(e)):{takes:[]};if(!t||R.state.search!==e)return;let n=t.takes;R.update({matches:e.trim()?n.map(e=>e.id):null})}var Ct=/[\p{L}\p{N}]/u;async function wt(){let{take:e,frame:t}=R.state,n=e&&await B(()=>P.like(e.id,t));e&&n&&R.update({found:{take:e.name,seconds:t/e.fps,hits:n}})}var Tt=0;async function H(e,t=0,n=!0){await B(async()=>{let r=++Tt,i=await P.take(e);if(r!==Tt)return;let{jumps:a}=R.state,o=n&&i.status===`live`&&!i.waiting?1:0;R.update({take:i,frame:t,rate:o,jumps:a+1,stats:null,following:!1,markIn:null,markOut:null}),P.tell({type:`watch`,take:e})})}function Et(e){R.state.take?.id!==e&&H(e)}async function Dt(e){let{id:t}=await P.begin(e);return await Ot(t),R.update({dialog:null}),t}async function Ot(e,t=0){await H(e,t),await kt(R.state.pace)}async function kt(e){R.update({pace:e}),R.state.take?.status===`live`&&await W({do:`pace`,blocks_ahead:e})}async function At(){R.update({busy:!0});let e=await B(()=>Dt(ft));R.update({guided:e,busy:!1})}function U(e){let{take:t,jumps:n}=R.state;if(!t)return;let r=Math.max(0,Math.min(Math.round(e),t.frames-1));R.update({frame:r,jumps:n+1,following:!1})}function jt(e){R.update({rate:0}),U(R.state.frame+e)}function Mt(e){let{take:t,frame:n}=R.state;t&&(e>0&&n>=t.frames-1&&t.status!==`live`&&U(0),R.update({rate:e}))}var Nt=()=>Mt(+!R.state.rate);function Pt(){let{take:e}=R.state;e&&(U(e.frames-1),R.update({following:e.status===`live`}))}function Ft(e){let{frame:t,markIn:n,markOut:r}=R.state;R.update({[e]:t}),e===`markIn`&&r!==null&&r<t&&R.update({markOut:null}),e===`markOut`&&n!==null&&n>t&&R.update({markIn:null})}function It(){R.update({markIn:null,markOut:null})}async function W(e){let{take:t}=R.state;return t&&B(()=>Lt(t,e),e.do)}async function Lt(e,t){try{return await P.command(e.id,t)}catch(t){if(!Rt(t))throw t;let n=t.message.charAt(0).toUpperCase()+t.message.slice(1);return R.alert(n,{remedy:{name:`Direct from here`,run:()=>void zt(e,n)}}),null}}function Rt(e){return e instanceof N&&e.status===409&&e.message.includes(`another window`)}async function zt(e,t=``){await B(()=>P.command(e.id,{do:`take_over`}))&&(R.withdraw(t),R.update({note:`This window directs now`}))}async function G(e){let{take:t,frame:n}=R.state,r=Bt(e);R.update({busy:!0});let i=await W(e);return i?.id&&await Ot(i.id,i.id===t?.id?n:r),R.update({busy:!1}),i!==null}function Bt(e){let{take:t,frame:n}=R.state;return`block`in e?(t?.segments[e.block]?.first_frame??n)-1:0}function Vt(){let{take:e,frame:t}=R.state;return(e&&F(e.segments,t)?.block)??0}async function Ht(e,[t,n]){await W({do:e,from:t,to:n})}async function Ut(e){let t=await W({do:`policy`,name:e});t&&R.update({note:`${e} chooses from ${z(t.takes_over_at)} on`})}async function Wt(e){let t=it(e,R.state),n=e.status!==`live`&&e.status!==`running`;if(!t||!n||!e.frames||L(e,R.state)!==void 0)return;let r=at(e,t.name),i=e=>R.update({drifts:{...R.state.drifts,[r]:e}});i(`is being measured`),await P.drift(e.id,t.name).then(i,e=>i(e.message))}function Gt(e){R.update({deleting:e,dialog:`delete`})}async function Kt(e){await B(()=>Lt(e,{do:`delete`}),`delete`)}async function qt(){let e=await W({do:`native_twin`});e?.id&&R.update({compared:[...R.state.compared??[],e.id]})}async function Jt(e){let{take:t}=R.state;if(!t)return;let[n,r]=ot(R.state),i=await B(()=>P.exported(t.id,e,n,r));i&&(Yt(i.file,i.name),R.update({note:`Exported ${i.name}`}))}function Yt(e,t){let n=document.createElement(`a`);n.href=URL.createObjectURL(e),n.download=t,n.click(),setTimeout(()=>URL.revokeObjectURL(n.href),6e4)}async function Xt(e,t){await B(()=>navigator.clipboard.writeText(e))!==null&&R.update({note:`Copied as ${t}`})}var K={ATTRIBUTE:1,CHILD:2,PROPERTY:3,BOOLEAN_ATTRIBUTE:4,EVENT:5,ELEMENT:6},Zt=e=>(...t)=>({_$litDirective$:e,values:t}),Qt=class{constructor(e){}get _$AU(){return this._$AM._$AU}_$AT(e,t,n){this._$Ct=e,this._$AM=t,this._$Ci=n}_$AS(e,t){return this.update(e,t)}update(e,t){return this.render(...t)}},q=class extends M{get state(){return R.state}connectedCallback(){super.connectedCallback(),this.unsubscribe=R.subscribe(e=>{this.watches.some(t=>e.has(t))&&this.requestUpdate()})}disconnectedCallback(){super.disconnectedCallback(),this.unsubscribe?.()}},$t=class extends q{get dialog(){return this.renderRoot.querySelector(`dialog`)}updated(){let e=this.state.dialog===this.named;e&&!this.dialog.open&&(this.dialog.showModal(),this.opened()),!e&&this.dialog.open&&this.dialog.close()}opened(){}closed(){this.state.dialog===this.named&&R.update({dialog:null})}},en=Zt(class extends Qt{render(e){}update(e,[t]){for(let[n,r]of Object.entries(t))e.element.style.setProperty(n,r)}});function J(e){let t=tn.exec(e)[0];return w`<span class="shortened"><span class="one-line">${e.slice(0,e.length-t.length)}</span><span>${t}</span></span>`}var tn=/((-native)?(-\d+)?)*$/,Y=o`
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
`,nn=class extends $t{constructor(...e){super(...e),this.watches=[`dialog`,`deleting`],this.named=`delete`}static{this.styles=[Y,o`
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
    `]}render(){let{deleting:e}=this.state;return w`<dialog aria-label="Delete take" @close=${this.closed}>
      <h1>Delete ${e?.name}?</h1>
      <p>
        Its folder, with everything in it, is removed from the disk for good. Takes that branched from it, or remember it, are whole
        without it.
      </p>
      <form method="dialog">
        <button autofocus>Cancel</button>
        <button class="primary" @click=${()=>void Kt(e)}>Delete</button>
      </form>
    </dialog>`}};customElements.define(`delete-take`,nn);var rn=[[`video`,`Video of the range`],[`stills`,`Stills of the range`],[`sheet`,`Contact sheet`],[`cues`,`Cues`],[`otio`,`OpenTimelineIO of this take`],[`otio_branch`,`OpenTimelineIO of the whole branch`],[`rights`,`Rights page`]],an=class extends q{constructor(...e){super(...e),this.watches=[`take`,`markIn`,`markOut`]}static{this.styles=[Y,o`
      [popover] {
        position: fixed;
        inset: 3.2em 0.6em auto auto;
        margin: 0;
        padding: 0.4em;
        background: var(--panel);
        color: var(--text);
        border: 1px solid #4a5058;
        border-radius: 4px;
      }
      [popover] button {
        display: block;
        width: 100%;
        text-align: left;
        border-color: transparent;
        background: none;
        padding: 0.35em 0.8em;
      }
      p {
        margin: 0.2em 0.8em;
      }
    `]}render(){let{take:e}=this.state;if(!e)return w`<button disabled>Export</button>`;let[t,n]=ot(this.state),r=e.labels?` · policy ${e.labels.license_policy} · ${e.labels.label}`:``;return w`
      <button popovertarget="menu" aria-haspopup="menu">Export</button>
      <div id="menu" popover role="menu" aria-label="Export" @toggle=${this.moveFocus} @click=${this.close} @keydown=${this.move}>
        <p class="quiet time">${z(t)} – ${z(n)}${r}</p>
        ${rn.map(([e,t])=>w`<button role="menuitem" @click=${()=>Jt(e)}>${t}</button>`)}
        <button role="menuitem" @click=${()=>Xt(e.command,`command`)}>Copy as command</button>
        <button role="menuitem" @click=${()=>Xt(e.python,`Python`)}>Copy as Python</button>
      </div>
    `}moveFocus({newState:e}){let{activeElement:t}=this.renderRoot,n=document.activeElement===document.body||t?.role===`menuitem`;e===`open`?this.renderRoot.querySelector(`[role=menuitem]`).focus():n&&this.renderRoot.querySelector(`button`).focus()}close(e){e.target.role===`menuitem`&&e.currentTarget.hidePopover()}move(e){let t=[...this.renderRoot.querySelectorAll(`[role=menuitem]`)],n={ArrowDown:1,ArrowUp:-1}[e.key];n&&(e.preventDefault(),e.stopPropagation(),t[(t.indexOf(e.target)+n+t.length)%t.length].focus())}};customElements.define(`export-menu`,an);var on=[[0,`The take plays while it is made. Scrub on the strip below, or press ? for the keys.`],[ft.cues[0].seconds,`A cue took over: the square leaves. Soon nothing of it is in sight, nor in what the model still attends to.`],[ft.cues[1].seconds,`The square returns, and it is the same one. The white marks on the memory map, at the right, are the past frames that were brought back for this moment; click one with Shift to see it.`]],sn=class extends q{constructor(...e){super(...e),this.watches=[`takes`,`studio`,`take`,`guided`,`frame`,`compared`,`busy`]}static{this.styles=[Y,o`
      .welcome {
        position: absolute;
        inset: 0;
        display: grid;
        pointer-events: auto;
        place-content: center;
        justify-items: center;
        gap: 0.8em;
        text-align: center;
        background: var(--ground);
      }
      .welcome p {
        margin: 0;
        max-width: 34em;
      }
      .welcome h1 {
        margin: 0;
        font-size: 1.5em;
        font-weight: 500;
      }
      .pointer {
        position: absolute;
        top: 1em;
        right: 1em;
        width: min(24em, 60%);
        display: flex;
        pointer-events: auto;
        gap: 0.6em;
        align-items: start;
        padding: 0.6em 0.6em 0.6em 0.9em;
        background: rgb(26 28 31 / 94%);
        border: 1px solid var(--line);
        border-left: 3px solid var(--memory);
      }
      .pointer.map {
        border-color: var(--memory);
      }
      .pointer.map::after {
        content: "";
        position: absolute;
        right: -0.55em;
        top: 1.2em;
        width: 1em;
        height: 1em;
        transform: rotate(45deg);
        background: var(--memory);
      }
    `]}render(){let{studio:e,takes:t,take:n,guided:r,frame:i,compared:a}=this.state;if(e&&!n&&!t.length)return this.welcome();if(!n||n.id!==r||a)return D;let o=on.findLastIndex(([e])=>e<=i/n.fps);return w`<div class=${o===on.length-1?`pointer map`:`pointer`} role="note" aria-live="polite">
      <span>${on[o][1]}</span>
      <button @click=${()=>R.update({guided:null})} aria-label="Close the guide">✕</button>
    </div>`}welcome(){return w`<div class="welcome">
      <h1>A video model that remembers what it has shown</h1>
      <p class="quiet">
        No takes yet. The demo take is half a minute of a small drawn world: a square stands in a desert, leaves, and returns as
        itself.
      </p>
      <button class="primary" ?disabled=${this.state.busy} @click=${At}>
        ${this.state.busy?`Starting …`:`Make the demo take`}
      </button>
    </div>`}};customElements.define(`first-minute`,sn);var cn=class extends M{constructor(...e){super(...e),this.sight=new IntersectionObserver(e=>{e.some(e=>e.isIntersecting)&&(this.inSight=!0,this.sight.disconnect())})}static{this.properties={take:{},frame:{type:Number},ratio:{type:Number},inSight:{state:!0}}}static{this.styles=o`
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
  `}connectedCallback(){super.connectedCallback(),this.inSight||this.sight.observe(this)}disconnectedCallback(){super.disconnectedCallback(),this.sight.disconnect()}render(){return w`<canvas width="160" height=${Math.round(160/(this.ratio||1))} aria-hidden="true"></canvas>`}async updated(){let{take:e,frame:t}=this;if(!this.inSight||!e||t<0)return;let n=await P.picture(e,t,160).catch(()=>null);if(!n||e!==this.take||t!==this.frame)return;let r=this.renderRoot.querySelector(`canvas`);r.getContext(`2d`).drawImage(n,0,0,r.width,r.height)}};customElements.define(`frame-picture`,cn);var ln=12,un=class extends M{static{this.properties={take:{},range:{}}}static{this.styles=[Y,o`
      div {
        display: grid;
        grid-template-columns: repeat(${ln}, minmax(0, 1fr));
        gap: 2px;
      }
      button {
        padding: 0;
        border-width: 2px;
        opacity: 0.65;
      }
      button[aria-pressed="true"] {
        opacity: 1;
        border-color: var(--memory);
      }
    `]}render(){let{take:e,range:t}=this;if(!e?.frames)return D;let n=e.made_seconds/ln;return w`<div role="group" aria-label="Frames of ${e.name}">
      ${Array.from({length:ln},(r,i)=>{let a=i*n;return w`<button type="button" aria-pressed=${!!t&&a+n/2>t[0]&&a+n/2<t[1]} aria-label="From ${z(a)}" title=${z(a)} @click=${()=>this.choose(i)}>
          <frame-picture .take=${e.id} .frame=${Math.floor((a+n/2)*e.fps)} .ratio=${e.width/e.height}></frame-picture>
        </button>`})}
    </div>`}choose(e){let t=this.take.made_seconds/ln,n=[e*t,(e+1)*t],{range:r}=this,i=r&&n[0]>=r[0]-.001&&n[1]<=r[1]+.001,a=!r||i?n:[Math.min(r[0],n[0]),Math.max(r[1],n[1])];this.dispatchEvent(new CustomEvent(`chosen`,{detail:a}))}};customElements.define(`take-strip`,un);var dn=250,fn=class extends q{static{this.properties={backbone:{},prompt:{},words:{state:!0}}}static{this.styles=[Y,o`
      :host {
        display: inline;
        color: var(--playhead);
      }
    `]}constructor(){super(),this.watches=[],this.backbone=``,this.prompt=``,this.words=[]}render(){return this.words.length?w`<span role="status">Never read by ${this.backbone}: ${this.words.join(`, `)}</span>`:D}updated(e){(e.has(`prompt`)||e.has(`backbone`))&&(clearTimeout(this.waiting),this.waiting=setTimeout(()=>this.ask(),dn))}async ask(){let{backbone:e,prompt:t}=this,n=t.trim()&&e?await P.unknownWords(e,t).catch(()=>[]):[];t===this.prompt&&(this.words=n)}};customElements.define(`unread-words`,fn);var pn=class extends $t{static{this.properties={errors:{state:!0},backboneName:{state:!0},startImage:{state:!0},busy:{state:!0},isLocked:{state:!0},typed:{state:!0},remembered:{state:!0},range:{state:!0}}}static{this.styles=[Y,o`
      dialog {
        width: min(46em, 94vw);
        max-height: 92vh;
      }
      h1 {
        margin: 0 0 0.7em;
        font-size: 1.2em;
      }
      .fields {
        display: grid;
        grid-template-columns: repeat(3, minmax(0, 1fr));
        gap: 0.7em 0.9em;
      }
      .field {
        display: grid;
        gap: 0.2em;
        align-content: start;
      }
      .wide {
        grid-column: 1 / -1;
      }
      .check {
        display: flex;
        gap: 0.5em;
        align-items: center;
      }
      .drop {
        display: flex;
        flex-wrap: wrap;
        gap: 0.8em;
        align-items: center;
        min-height: 4.2em;
        padding: 0.4em 0.7em;
        border: 1px dashed #6b727b;
      }
      canvas {
        width: 7em;
        height: 4.6em;
      }
      details {
        margin-top: 0.8em;
      }
      details .fields {
        grid-template-columns: repeat(2, minmax(0, 1fr));
        padding: 0.6em 0;
        max-height: 34vh;
        overflow-y: auto;
      }
      @media (width < 40em) {
        .fields,
        details .fields {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      small {
        color: var(--quiet);
      }
      .error {
        color: var(--live);
      }
      .whole {
        display: flex;
        gap: 0.8em;
        align-items: center;
        margin-top: 0.6em;
      }
      footer {
        display: flex;
        justify-content: flex-end;
        gap: 0.5em;
        margin-top: 1em;
      }
    `]}constructor(){super(),this.watches=[`dialog`,`studio`,`takes`,`take`],this.named=`new`,this.errors=[],this.backboneName=null,this.startImage=null,this.busy=!1,this.isLocked=!1,this.typed=``,this.remembered=``,this.range=null}connectedCallback(){super.connectedCallback(),addEventListener(`dragover`,e=>mn(e)&&e.preventDefault()),addEventListener(`drop`,e=>this.drop(e))}get backbone(){let e=this.state.studio?.backbones??[];return e.find(e=>e.name===this.backboneName)??e.find(e=>e.default)??e[0]}render(){let{studio:e,take:t}=this.state,{backbone:n}=this;return w`<dialog aria-label="New take" @close=${this.closed}>
      <form @submit=${this.submit}>
        <h1>New take</h1>
        <div class="fields">
          <label class="field wide">
            Prompt
            <input
              name="prompt"
              aria-label="Prompt"
              dir="auto"
              required
              placeholder="a red circle walks in a meadow"
              autocomplete="off"
              @input=${e=>this.typed=e.target.value}
            />
            <unread-words .backbone=${n?.name??``} .prompt=${this.typed}></unread-words>
            ${this.error(`prompt`)}
          </label>
          <label class="field">Seconds<input name="seconds" aria-label="Seconds" value="30" />${this.error(`seconds`)}</label>
          <label class="field">Seed<input name="seed" aria-label="Seed" value="0" inputmode="numeric" />${this.error(`seed`)}</label>
          <label class="field">
            Backbone
            <select name="backbone" aria-label="Backbone" @change=${e=>this.backboneName=e.target.value}>
              ${e?.backbones.map(e=>w`<option ?selected=${e===n}>${e.name}</option>`)}
            </select>
            ${this.error(`backbone`)}
          </label>
          ${this.imageField()}
          ${this.rememberFields()}
        </div>
        <details>
          <summary>Settings</summary>
          <div class="fields">${n?.settings.map(e=>this.knob(e))}</div>
        </details>
        <div class="whole">
          ${this.error(``)}
          ${this.isLocked&&t?w`<button type="button" @click=${()=>this.takeOver(t)}>Direct from here</button>`:D}
        </div>
        <footer>
          <button type="button" @click=${()=>this.dialog.close()}>Cancel</button>
          <button class="primary" ?disabled=${this.busy}>${this.busy?`Starting …`:`Start`}</button>
        </footer>
      </form>
    </dialog>`}imageField(){return w`<div class="field wide">
      <span class="drop">
        <label>Start image <input type="file" aria-label="Start image" accept="image/png,image/jpeg" @change=${this.chooseFile} /></label>
        ${this.startImage?w`<canvas role="img" width="240" height="160" aria-label="The start image"></canvas>
              <button type="button" @click=${()=>this.startImage=null}>Remove</button>`:w`<small>or drop a PNG or JPEG anywhere; the take begins with it</small>`}
      </span>
      ${this.error(`start_image`)}
    </div>`}rememberFields(){let{takes:e}=this.state,t=e.find(e=>e.id===this.remembered);return w`
      <label class="check"><input type="checkbox" name="memory" checked />Memory</label>
      <label class="field">
        Remember another take
        <select
          name="remember"
          aria-label="Remember another take"
          @change=${e=>{this.remembered=e.target.value,this.range=null}}
        >
          <option value="">none</option>
          ${e.map(e=>w`<option value=${e.id} ?selected=${e.id===this.remembered}>${e.name}</option>`)}
        </select>
      </label>
      <label class="field">
        From – to
        <input
          name="span"
          aria-label="Range to remember"
          placeholder="0:00.0 – 0:02.5"
          ?disabled=${!t}
          .value=${this.range?this.range.map(e=>e.toFixed(2)).join(` – `):``}
          @change=${e=>this.range=gn(e.target.value,t?.fps??1)}
        />
      </label>
      <div class="field wide">
        ${t?w`<small>The new take can bring back these frames, so it knows who is in them. Choose the first one, then the last one.</small>
              <take-strip .take=${t} .range=${this.range} @chosen=${e=>this.range=e.detail}></take-strip>`:D}
        ${this.error(`remember`)}
      </div>
    `}knob(e){let t=e.default===null||e.default===void 0?``:String(e.default),n=e.type===`bool`?[`true`,`false`]:e.choices;return w`<label class="field">
      <span>${e.name.replaceAll(`_`,` `)}${e.unit?w` <small>(${e.unit})</small>`:D}</span>
      ${n?w`<select data-knob=${e.key} aria-label=${e.name.replaceAll(`_`,` `)}>
            <option value="">${t?`default: ${t}`:`default`}</option>
            ${n.map(e=>w`<option>${e}</option>`)}
          </select>`:w`<input data-knob=${e.key} aria-label=${e.name.replaceAll(`_`,` `)} placeholder=${t} />`}
      <small>${e.help}</small>
      ${this.error(e.name)}
    </label>`}error(e){let t=new Set([`prompt`,`seconds`,`seed`,`backbone`,`start_image`,`remember`,...this.knobNames()]);return this.errors.filter(n=>e?n.field===e:!t.has(n.field)).map(e=>w`<span class="error" role="alert">${e.message}</span>`)}knobNames(){return this.backbone?.settings.map(e=>e.name)??[]}updated(){super.updated();let e=this.renderRoot.querySelector(`canvas`);e&&this.startImage&&hn(e,this.startImage.picture)}async takeOver(e){await zt(e),this.errors=[],this.isLocked=!1}closed(){this.errors=[],super.closed()}chooseFile(e){let t=e.target.files?.[0];t&&this.upload(t)}drop(e){if(!mn(e))return;e.preventDefault();let t=e.dataTransfer?.files[0];t&&(R.update({dialog:`new`}),this.upload(t))}async upload(e){await this.showingErrors(`start_image`,async()=>{let{id:t}=await P.upload(e);this.startImage={id:t,picture:await createImageBitmap(e)}})}async submit(e){e.preventDefault();let t=e.target;this.busy=!0,await this.showingErrors(``,async()=>{await Dt(this.request(t)),t.reset(),this.typed=``,this.startImage=null,this.remembered=``,this.range=null,await this.updateComplete,this.dispatchEvent(new CustomEvent(`begun`))}),this.busy=!1}request(e){let t=new FormData(e),n=e=>String(t.get(e)??``).trim(),r=this.state.takes.find(e=>e.id===this.remembered);if(!this.range&&n(`span`))throw _n(n(`span`));let[i,a]=this.range??[0,r?.made_seconds??0];return{prompt:n(`prompt`),seconds:n(`seconds`),seed:n(`seed`),backbone:n(`backbone`)||null,memory:t.has(`memory`)?null:!1,start_image:this.startImage?.id??null,remember:r?[{take:r.id,from:i,to:a}]:[],settings:this.settings(e)}}settings(e){let t={};for(let n of e.querySelectorAll(`[data-knob]`)){let e=this.backbone.settings.find(e=>e.key===n.dataset.knob);n.value.trim()&&(t[e.key]=yn(e,n.value.trim()))}return t}showError(){let e=this.renderRoot.querySelector(`.error`),t=e?.closest(`details`);t&&(t.open=!0),e?.closest(`label`)?.querySelector(`input, select`)?.focus(),e?.scrollIntoView({block:`nearest`})}async showingErrors(e,t){this.errors=[],this.isLocked=!1;try{await t()}catch(t){if(!(t instanceof N))throw t;this.isLocked=Rt(t);let n={field:e,value:null,wanted:``,message:t.message};this.errors=t.fields.length&&!e?t.fields:[n],await this.updateComplete,this.showError()}}};function mn(e){return!!e.dataTransfer?.types.includes(`Files`)}function hn(e,t){let n=Math.min(e.width/t.width,e.height/t.height),[r,i]=[t.width*n,t.height*n],a=e.getContext(`2d`);a.clearRect(0,0,e.width,e.height),a.drawImage(t,(e.width-r)/2,(e.height-i)/2,r,i)}function gn(e,t){let[n,r]=e.split(/[-–]/).map(e=>lt(e,t));return n===null||r==null?null:[n,r]}function _n(e){let t=`write two moments of it, like 0:01 – 0:02.5`,n=`“${e}” is not a range of that take; ${t}`;return new N(422,n,[{field:`remember`,value:e,wanted:t,message:n}])}function vn(e){return e!==``&&Number.isFinite(Number(e))?Number(e):e}function yn(e,t){let n=(e,t)=>e.split(t).map(e=>vn(e.trim()));switch(e.type){case`int`:case`float`:return vn(t);case`bool`:return t===`true`;case`steps`:return n(t,`,`);case`span`:return n(t,`-`);case`spans`:return t.split(`,`).map(e=>n(e,`-`));case`texts`:return t.split(`,`).map(e=>e.trim());default:return t}}customElements.define(`new-take`,pn);var bn=[`name`,`status`,`made`,`seed`,`backbone`],xn=class extends $t{static{this.properties={rows:{state:!0}}}static{this.styles=[Y,o`
      dialog {
        width: 94vw;
        max-height: 90vh;
      }
      .head {
        display: flex;
        gap: 0.5em;
        align-items: center;
        margin-bottom: 0.8em;
      }
      h2 {
        flex: 1;
      }
      .scrolled {
        overflow: auto;
      }
      table {
        border-collapse: collapse;
        font-variant-numeric: tabular-nums;
      }
      th,
      td {
        padding: 0.25em 0.9em 0.25em 0;
        text-align: left;
        border-bottom: 1px solid var(--line);
        white-space: nowrap;
        max-width: 18em;
        overflow: hidden;
        text-overflow: ellipsis;
      }
      th {
        color: var(--quiet);
        font-weight: 500;
      }
      .copies button + button {
        margin-left: 0.6em;
      }
      td button {
        border: none;
        background: none;
        padding: 0;
        text-decoration: underline;
      }
    `]}constructor(){super(),this.watches=[`dialog`],this.named=`runs`,this.rows=null}render(){return w`<dialog aria-label="Runs" @close=${this.closed}>
      <div class="head">
        <h2>Runs</h2>
        <button ?disabled=${!this.rows} @click=${this.saveCsv}>Save as CSV</button>
        <button @click=${()=>R.update({dialog:null})}>Close</button>
      </div>
      ${this.rows?this.table(this.rows):w`<p class="quiet">Reading the takes …</p>`}
    </dialog>`}table(e){let[t,...n]=Cn(e);return w`<div class="scrolled">
      <table>
        <thead>
          <tr>
            <th scope="col">${t}</th>
            <th scope="col">copy as</th>
            ${n.map(e=>w`<th scope="col">${e}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${e.map(({id:e,cells:r,command:i,python:a})=>w`<tr>
              <td><button @click=${()=>this.open(e)}>${r[t]}</button></td>
              <td class="copies">
                <button aria-label="Copy ${r.name} as command" @click=${()=>Xt(i,`command`)}>command</button>
                <button aria-label="Copy ${r.name} as Python" @click=${()=>Xt(a,`Python`)}>Python</button>
              </td>
              ${n.map(e=>w`<td title=${r[e]??D}>${r[e]??``}</td>`)}
            </tr>`)}
        </tbody>
      </table>
    </div>`}async opened(){this.rows=null;let e=(await Promise.all(Ze(this.state).map(e=>P.take(e.id).catch(()=>null)))).filter(e=>e!==null);this.rows=e.map(e=>{let t={name:e.name,status:e.status,made:z(e.made_seconds),seed:e.seed,backbone:e.backbone},{id:n,command:r,python:i}=e;return{id:n,command:r,python:i,cells:{...Sn(e.request),...t}}})}open(e){R.update({dialog:null}),H(e)}saveCsv(){let e=Cn(this.rows),t=e=>`"${e.replaceAll(`"`,`""`)}"`,n=[e,...this.rows.map(({cells:t})=>e.map(e=>t[e]??``))].map(e=>e.map(t).join(`,`)).join(`\r
`);Yt(new Blob([n],{type:`text/csv`}),`runs.csv`)}};function Sn(e,t=``){let n={};for(let[r,i]of Object.entries(e))typeof i==`object`&&i&&!Array.isArray(i)?Object.assign(n,Sn(i,`${t}${r}.`)):n[t+r]=typeof i==`string`?i:JSON.stringify(i);return n}function Cn(e){let t=new Set(e.flatMap(({cells:e})=>Object.keys(e))),n=t=>new Set(e.map(({cells:e})=>e[t])).size>1;return[...bn,...[...t].filter(e=>!bn.includes(e)&&n(e))]}customElements.define(`run-table`,xn);var{I:wn}=je,Tn=e=>e,En=e=>e.strings===void 0,Dn=()=>document.createComment(``),X=(e,t,n)=>{let r=e._$AA.parentNode,i=t===void 0?e._$AB:t._$AA;if(n===void 0)n=new wn(r.insertBefore(Dn(),i),r.insertBefore(Dn(),i),e,e.options);else{let t=n._$AB.nextSibling,a=n._$AM,o=a!==e;if(o){let t;n._$AQ?.(e),n._$AM=e,n._$AP!==void 0&&(t=e._$AU)!==a._$AU&&n._$AP(t)}if(t!==i||o){let e=n._$AA;for(;e!==t;){let t=Tn(e).nextSibling;Tn(r).insertBefore(e,i),e=t}}}return n},Z=(e,t,n=e)=>(e._$AI(t,n),e),On={},kn=(e,t=On)=>e._$AH=t,An=e=>e._$AH,jn=e=>{e._$AR(),e._$AA.remove()},Mn=(e,t,n)=>{let r=new Map;for(let i=t;i<=n;i++)r.set(e[i],i);return r},Q=Zt(class extends Qt{constructor(e){if(super(e),e.type!==K.CHILD)throw Error(`repeat() can only be used in text expressions`)}dt(e,t,n){let r;n===void 0?n=t:t!==void 0&&(r=t);let i=[],a=[],o=0;for(let t of e)i[o]=r?r(t,o):o,a[o]=n(t,o),o++;return{values:a,keys:i}}render(e,t,n){return this.dt(e,t,n).values}update(e,[t,n,r]){let i=An(e),{values:a,keys:o}=this.dt(t,n,r);if(!Array.isArray(i))return this.ut=o,a;let s=this.ut??=[],c=[],l,u,d=0,f=i.length-1,p=0,m=a.length-1;for(;d<=f&&p<=m;)if(i[d]===null)d++;else if(i[f]===null)f--;else if(s[d]===o[p])c[p]=Z(i[d],a[p]),d++,p++;else if(s[f]===o[m])c[m]=Z(i[f],a[m]),f--,m--;else if(s[d]===o[m])c[m]=Z(i[d],a[m]),X(e,c[m+1],i[d]),d++,m--;else if(s[f]===o[p])c[p]=Z(i[f],a[p]),X(e,i[d],i[f]),f--,p++;else if(l===void 0&&(l=Mn(o,p,m),u=Mn(s,d,f)),l.has(s[d])){if(l.has(s[f])){let t=u.get(o[p]),n=t===void 0?null:i[t];if(n===null){let t=X(e,i[d]);Z(t,a[p]),c[p]=t}else c[p]=Z(n,a[p]),X(e,i[d],n),i[t]=null;p++}else jn(i[f]),f--}else jn(i[d]),d++;for(;p<=m;){let t=X(e,c[m+1]);Z(t,a[p]),c[p++]=t}for(;d<=f;){let e=i[d++];e!==null&&jn(e)}return this.ut=o,kn(e,c),E}}),Nn=class extends q{constructor(...e){super(...e),this.watches=[`alerts`]}static{this.styles=[Y,o`
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
    `]}render(){return Q(this.state.alerts,e=>e.number,e=>w`<div role="alert">
        <span>${e.message}</span>
        ${e.remedy?w`<button @click=${e.remedy.run}>${e.remedy.name}</button>`:D}
        <button @click=${()=>R.dismiss(e.number)} aria-label="Dismiss">✕</button>
      </div>`)}};customElements.define(`studio-alerts`,Nn);var Pn=.8;function Fn(e){return Math.min(Pn,...e.flatMap(({values:e})=>e).filter(e=>e!==null))}function In({seconds:e,values:t},n,r){return t.map((i,a)=>{if(i===null)return``;let o=a===0||t[a-1]===null,s=100*e[a]/n;return`${o?`M`:`L`}${s.toFixed(2)},${(2+96*(1-i)/(1-r)).toFixed(2)}`}).join(``)}function Ln({D:e}){return Rn.map(t=>`D${t} ${e[t]?.toFixed(3)??`–`}`).join(` · `)}var Rn=[30,60,120],zn=20,Bn=40,Vn=1e6,Hn=1e3,Un=1836019558,Wn=class{constructor(e,t,n,r){this.video=e,this.fps=t,this.onVoid=r,this.source=new MediaSource,this.buffer=null,this.segments=[],this.appended=new Map,this.newest=-1,this.pumping=!1,this.closed=!1,this.pump=async()=>{if(!this.pumping&&this.buffer){this.pumping=!0;try{for(;!this.closed&&await this.work(););}catch(e){if(this.closed)return;if(!(e instanceof N)){this.buffer=null,R.alert(e instanceof Error?e.message:String(e));return}e.status===404&&this.onVoid(),setTimeout(this.pump,Hn)}finally{this.pumping=!1}}};let i=URL.createObjectURL(this.source);this.source.addEventListener(`sourceopen`,()=>{URL.revokeObjectURL(i),this.closed||(MediaSource.isTypeSupported(n)?(this.buffer=this.source.addSourceBuffer(n),this.source.duration=1/0,this.source.setLiveSeekableRange(0,Vn),this.pump()):R.alert(`This browser can't play ${n}; open the studio in another browser, or export the take`))}),e.src=i,e.addEventListener(`timeupdate`,this.pump),e.addEventListener(`seeking`,this.pump)}update(e){this.segments=e,this.pump()}close(){this.closed=!0,this.video.removeEventListener(`timeupdate`,this.pump),this.video.removeEventListener(`seeking`,this.pump),this.video.removeAttribute(`src`),this.video.load()}async work(){let e=[...this.appended.values()].find(({block:e,url:t})=>this.segments[e]?.url!==t);if(e)return this.remove(e.seconds,1/0);let t=this.nextMissing();if(!t)return this.removeFarOnes();let n=await P.bytes(t.url);return this.closed||this.segments[t.block]?.url!==t.url||(await this.change(e=>e.appendBuffer(t.key?n:Gn(n))),this.appended.set(t.block,t),this.newest=t.block),!0}nextMissing(){let e=F(this.segments,Math.floor(this.video.currentTime*this.fps));if(!e)return;let t=this.video.currentTime+zn;for(let n=this.keyOf(e.block);n<this.segments.length;n++){let e=this.segments[n];if(e.seconds>t)return;if(this.appended.has(n))continue;if(e.key||this.newest===n-1)return e;let r=this.keyOf(n);for(let e=r;e<n;e++)this.appended.delete(e);return this.segments[r]}}async removeFarOnes(){let e=this.video.currentTime,t=[...this.appended.values()].find(({block:t})=>{let n=this.segments[this.keyOf(t)].seconds;return this.endOfRun(t)<e-Bn||n>e+zn+Bn});return t?this.remove(this.segments[this.keyOf(t.block)].seconds,this.endOfRun(t.block)):!1}async remove(e,t){await this.change(n=>n.remove(e,t));for(let{block:n,seconds:r}of[...this.appended.values()])r>=e&&r<t&&this.appended.delete(n);return this.appended.has(this.newest)||(this.newest=-1),!0}change(e){let t=this.buffer;return new Promise((n,r)=>{t.onupdateend=()=>n(),t.onerror=()=>r(Error(`A segment of the take can't be decoded`)),e(t)})}keyOf(e){for(;e>0&&!this.segments[e].key;)e--;return e}endOfRun(e){let t=e+1;for(;t<this.segments.length&&!this.segments[t].key;)t++;return this.segments[t]?.seconds??1/0}};function Gn(e){let t=new DataView(e);for(let n=0;n+8<=e.byteLength;n+=t.getUint32(n))if(t.getUint32(n+4)===Un)return e.slice(n);return e}var Kn=class extends q{constructor(...e){super(...e),this.watches=[`take`,`studio`,`embedder`]}static{this.styles=[Y,o`
      :host {
        display: inline-block;
        white-space: nowrap;
      }
      select {
        max-width: 9em;
        padding: 0 0.3em;
      }
    `]}render(){let{take:e,studio:t}=this.state,n=e&&it(e,this.state);return!e||!n?D:w`<label class="quiet">
      Drift by
      <select @change=${e=>R.update({embedder:e.target.value})}>
        ${rt(e,t).map(({name:e,independent:t})=>w`<option value=${e} ?selected=${e===n.name}>${e}${t?``:` (no independent judge)`}</option>`)}
      </select>
    </label>`}};customElements.define(`drift-by`,Kn);var qn=100,Jn=[`#f0b64d`,`#6cc4b4`,`#8ab8ff`,`#e59ac8`],Yn=3e3,Xn=class extends q{constructor(...e){super(...e),this.watches=[`compared`,`takes`,`take`,`jumps`,`rate`,`studio`,`embedder`,`drifts`],this.players=new Map}static{this.styles=[Y,o`
      :host {
        display: grid;
        grid-template: subgrid / subgrid;
        min-height: 0;
      }
      .head {
        grid-area: 1 / 1 / 2 / -1;
        display: flex;
        gap: 0.5em;
        align-items: center;
        padding: 0.3em 0.6em;
        background: var(--panel);
      }
      .head select {
        flex: 1;
        max-width: 24em;
      }
      .head button:last-child {
        margin-left: auto;
      }
      .videos {
        grid-area: 2 / 2;
        background: #000;
        display: grid;
        grid-auto-flow: column;
        grid-auto-columns: minmax(0, 1fr);
        gap: 2px;
        min-height: 0;
      }
      figure {
        margin: 0;
        display: grid;
        grid-template: minmax(0, 1fr) auto / minmax(0, 1fr);
        min-height: 0;
      }
      video {
        width: 100%;
        height: 100%;
        object-fit: contain;
        min-height: 0;
      }
      figcaption {
        display: flex;
        gap: 0.5em;
        align-items: center;
        height: 1.8em;
        padding: 0 0.6em;
        background: var(--panel);
      }
      figcaption span {
        flex: 1;
      }
      figcaption button {
        padding: 0 0.4em;
        line-height: 1.3;
      }
      .drift {
        grid-area: 3 / 1 / 4 / -1;
        background: var(--panel);
        padding: 0.3em 0.6em;
        border-top: 1px solid var(--line);
      }
      svg {
        display: block;
        width: 100%;
        height: clamp(54px, 8vh, 200px);
        background: var(--ground);
      }
      path {
        fill: none;
        stroke-width: 2;
        vector-effect: non-scaling-stroke;
      }
      .legend {
        display: flex;
        column-gap: 1.4em;
        align-items: center;
        flex-wrap: wrap;
        white-space: nowrap;
        margin-top: 0.3em;
      }
      .of {
        display: flex;
        gap: 0.4em;
        align-items: center;
      }
      .key {
        display: inline-block;
        flex: none;
        width: 1.2em;
        height: 0.7em;
      }
    `]}connectedCallback(){super.connectedCallback(),this.setAttribute(`role`,`region`),this.setAttribute(`aria-label`,`Compare`),this.inStep=setInterval(()=>this.keepInStep(),qn)}disconnectedCallback(){super.disconnectedCallback(),clearInterval(this.inStep);for(let e of this.players.values())e.close();this.players.clear()}get takes(){let{take:e,takes:t,compared:n}=this.state;return[e,...(n??[]).map(e=>t.find(t=>t.id===e))].filter(e=>!!e)}render(){let{compared:e,takes:t,take:n}=this.state,r=t.filter(t=>t.id!==n?.id&&!e?.includes(t.id)),i=this.takes.slice(1);return w`
      <div class="head">
        <select aria-label="Take to compare with" @change=${this.add}>
          <option value="">Compare with …</option>
          ${r.map(e=>w`<option value=${e.id}>${e.name}, ${z(e.made_seconds)}</option>`)}
        </select>
        <button @click=${qt} title="The same request and noise, without memory">Without memory</button>
        <button @click=${()=>R.update({compared:null})} aria-label="Close the comparison">✕</button>
      </div>
      <div class="videos">
        ${Q(i,e=>e.id,(e,t)=>w`<figure>
            <video muted playsinline tabindex="-1" data-id=${e.id} aria-label=${e.name}></video>
            <figcaption>
              ${Zn(t+1)}
              <span class="one-line">${e.name}</span>
              <button @click=${()=>this.leaveOut(e.id)} aria-label="Remove ${e.name}">✕</button>
            </figcaption>
          </figure>`)}
      </div>
      ${this.drift()}
    `}drift(){let e=this.takes.flatMap((e,t)=>{let n=L(e,this.state);return n&&typeof n!=`string`?[{take:e,drift:n,colour:Jn[t%Jn.length]}]:[]}),t=e.map(({drift:e})=>e),n=Math.max(1,...t.flatMap(e=>e.seconds)),r=Fn(t);return w`<div class="drift">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="Drift curve: likeness to the first second">
        ${e.map(({drift:e,colour:t})=>T`<path d=${In(e,n,r)} stroke=${t}></path>`)}
      </svg>
      <div class="legend time">
        <drift-by></drift-by>
        <span class="quiet">scale ${r.toFixed(2)} – 1${t.some(e=>!e.independent)?` · no independent judge`:``}</span>
        ${this.takes.map((e,t)=>w`<span class="of">${Zn(t)} ${J(e.name)} <span class="quiet one-line">${this.figures(e)}</span></span>`)}
      </div>
    </div>`}figures(e){let t=L(e,this.state);return e.status===`live`||e.status===`running`?`is being made`:t===void 0||typeof t==`string`?t??``:Ln(t)}updated(){let e=new Set(this.takes.slice(1).map(e=>e.id));for(let[t,n]of this.players)e.has(t)||(n.close(),this.players.delete(t));for(let e of this.renderRoot.querySelectorAll(`video`)){let t=e.dataset.id;this.players.has(t)||this.players.set(t,new Qn(e,t))}for(let e of this.takes)Wt(e);this.keepInStep()}keepInStep(){let{take:e,frame:t,rate:n}=this.state;if(e)for(let r of this.players.values())r.follow(t/e.fps,n)}add(e){let t=e.target;t.value&&R.update({compared:[...this.state.compared??[],t.value]}),t.value=``}leaveOut(e){R.update({compared:this.state.compared.filter(t=>t!==e)})}};function Zn(e){return w`<svg class="key" aria-hidden="true"><rect width="100%" height="100%" fill=${Jn[e%Jn.length]}></rect></svg>`}var Qn=class{constructor(e,t){this.video=e,this.id=t,this.closed=!1,e.muted=!0,this.load()}follow(e,t){let{video:n,take:r}=this;if(!r)return;let i=Math.max(0,r.frames-1),a=e+.5/r.fps-n.currentTime,o=e*r.fps>=i;if(t>0&&!o){n.paused&&n.play().catch(()=>{}),Math.abs(a)>.5&&(n.currentTime=e),n.playbackRate=t*(1+Math.max(-.1,Math.min(.1,a)));return}n.pause();let s=(Math.min(Math.round(e*r.fps),i)+.5)/r.fps;!n.seeking&&Math.abs(n.currentTime-s)>.001&&(n.currentTime=s)}close(){this.closed=!0,clearTimeout(this.refreshing),this.feed?.close()}async load(){clearTimeout(this.refreshing);let e=await P.take(this.id).catch(()=>null);this.closed||(e&&(this.take=e,this.feed??=new Wn(this.video,e.fps,e.mime,()=>this.load()),this.feed.update(e.segments)),e&&e.status!==`live`&&e.status!==`running`||(this.refreshing=setTimeout(()=>this.load(),Yn)))}};customElements.define(`studio-compare`,Xn);var $n=class extends q{static{this.properties={typed:{state:!0}}}static{this.styles=[Y,o`
      form {
        display: grid;
        grid-template-columns: minmax(0, 1fr) 11.5em auto auto;
        align-items: center;
        gap: 0.4em;
        padding: 0.5em 0.6em 0.2em;
        background: var(--panel);
        border-top: 1px solid var(--line);
      }
      @media (width < 40em) {
        form {
          grid-template-columns: minmax(0, 1fr) auto auto;
        }
        [name="prompt"] {
          grid-column: 1 / -1;
        }
      }
      p {
        margin: 0;
        padding: 0 0.7em 0.4em;
        height: 1.9em;
        background: var(--panel);
      }
    `]}constructor(){super(),this.watches=[`take`,`busy`],this.typed=``}render(){let{take:e}=this.state,t=e?.status===`live`,n=!!e&&(t||e.blocks>0)&&e.status!==`running`&&!this.state.busy;return w`
      <form @submit=${this.direct}>
        <input name="prompt" aria-label="Direction" dir="auto" autocomplete="off" placeholder=${n&&!t?`What happens instead`:`What happens next`} ?disabled=${!n} @input=${this.type} />
        <input name="at" aria-label="Takes over at" placeholder=${n&&!t?`after this block`:`at the next block`} ?disabled=${!n} />
        <label title="Another shot begins: what was is gone but for what memory brings back"><input type="checkbox" name="cut" ?disabled=${!n} /> Cut</label>
        <button class="primary" ?disabled=${!n}>Direct</button>
      </form>
      <p class="quiet one-line" aria-live="polite">
        ${this.typed?w`<unread-words .backbone=${e?.backbone??``} .prompt=${this.typed}></unread-words>`:this.says(t)}
      </p>
    `}says(e){let{take:t,busy:n}=this.state;if(t&&n)return`The take that goes on from here is being opened …`;if(t?.unknown_words.length)return`The backbone has never read: ${t.unknown_words.join(`, `)}`;if(t?.waiting)return`This take waits: direct it, or resume it with the words it has`;if(!t?.blocks||e)return``;if(t.status===`running`)return`It is made by another program; what is made can be watched`;let r=`what you direct becomes a branch, after the block under the playhead`;return t.status===`finished`?`This take is made: ${r}`:`Resume goes on with this take; ${r}`}type(e){this.typed=e.target.value}empty(e,t){for(let n of e.querySelectorAll(`input`))n.value===t.get(n.name)&&(n.type===`checkbox`?n.checked=!1:n.value=``);this.typed=e.querySelector(`[name=prompt]`).value}async direct(e){e.preventDefault();let t=e.target,n=new FormData(t),r=String(n.get(`prompt`)).trim(),i=String(n.get(`at`)).trim(),a=n.has(`cut`),{take:o}=this.state;if(!r||!o)return;let s=i?lt(i,o.fps):null,c=e=>R.alert(e,{about:`direct`});if(R.triedAgain(`direct`),i&&s===null)return c(`“${i}” is not a timecode; write 12.5, 0:12.5 or 00:00:12:08`);let l=()=>this.empty(t,n);if(o.status!==`live`){if(s!==null&&s>o.made_seconds)return c(`“${i}” is past what is made; name a moment up to ${z(o.made_seconds)}`);await G({do:`branch`,block:s===null?Vt()+1:Qe(o,s),prompt:r,seed:null,cut:a})&&l();return}let u=await W({do:`direct`,prompt:r,at:s,cut:a});if(!u)return;l();let d=u.takes_over_at??s;d!==null&&R.update({note:`“${r}” ${a?`cuts in`:`takes over`} at ${z(d)}`})}};customElements.define(`studio-direction`,$n);var er=[[`Space`,`play or pause`],[`J K L`,`backwards, pause, forwards; again for faster`],[`← →`,`a frame back or on; with Shift a second`],[`Home End`,`to the beginning, to the newest frame`],[`I O X`,`mark in, mark out, no marks`],[`D`,`write a direction`],[`/`,`search the library`],[`Tab ← →`,`to a planned cue on the strip; move it by a block`],[`Enter Delete`,`edit a planned cue, withdraw it`],[`Delete`,`in the library: delete a take`],[`?`,`this page`]],tr=class extends $t{constructor(...e){super(...e),this.watches=[`dialog`],this.named=`help`}static{this.styles=[Y,o`
      dl {
        display: grid;
        grid-template-columns: auto auto;
        gap: 0.4em 1.6em;
      }
      dt {
        color: var(--playhead);
      }
      dd {
        margin: 0;
      }
    `]}render(){return w`<dialog aria-label="Keys" @close=${this.closed}>
      <h2>Keys</h2>
      <dl>${er.map(([e,t])=>w`<dt>${e}</dt><dd>${t}</dd>`)}</dl>
      <form method="dialog"><button class="primary">Close</button></form>
    </dialog>`}};customElements.define(`studio-help`,tr);var nr=10,rr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`takes`,`frame`,`busy`],this.focused=null}static{this.styles=[Y,o`
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
    `]}render(){let{take:e,busy:t}=this.state,n=e?.status===`live`,r=Vt();return w`
      <h2>Branches</h2>
      <div class="tree" role="tree" aria-label="Branches" @keydown=${this.move}>${e?this.item(this.root(e)):D}</div>
      ${e?D:w`<p class="quiet">A take and all that grows from it: undoing and branching lose nothing.</p>`}
      <div class="buttons" @focusin=${this.noteFocus} @focusout=${this.noteFocus}>
        <button ?disabled=${!e?.blocks||t} @click=${()=>G({do:`undo_to`,block:r+1})} title="Go on after this block; what was made stays as a branch">
          Undo to here
        </button>
        <button ?disabled=${!e?.blocks||t} @click=${()=>G({do:`branch`,block:r+1,prompt:null,seed:null})} title="Another ending after this block, from other noise; for other words, write them in the line of directions">
          Branch here
        </button>
        <button ?disabled=${!e||n||t} @click=${()=>G({do:`extend`,seconds:nr,prompt:null})} title="Make ${nr} seconds more">
          Extend
        </button>
        <button ?disabled=${!n} @click=${()=>W({do:`stop`})} title="End it after the block that is being made">Stop</button>
        <button
          ?disabled=${!e||t||!(e.waiting||e.status===`interrupted`||e.status===`failed`)}
          @click=${()=>G({do:`resume`})}
          title="Go on to the length that was asked for"
        >
          Resume
        </button>
      </div>
    `}noteFocus({type:e,target:t}){let n=t;e===`focusin`?this.focused=n:n.disabled||(this.focused=null)}updated(){let{focused:e}=this;if(!e||this.state.busy)return;let t=this.renderRoot.activeElement===e;!t&&document.activeElement!==document.body?this.focused=null:(!t||e.disabled)&&[e,...this.renderRoot.querySelectorAll(`.buttons button`)].find(e=>!e.disabled)?.focus()}root(e,t=[]){let n=this.state.takes.find(t=>t.id===e.parent),r=[...t,e.id];return n&&!r.includes(n.id)?this.root(n,r):e}item(e,t=[]){let n=this.state.take.id===e.id,r=[...t,e.id],i=this.state.takes.filter(t=>t.parent===e.id&&!r.includes(t.id)).reverse(),a=this.forkFrame(e);return w`<div
      role="treeitem"
      tabindex=${n?0:-1}
      aria-current=${n}
      aria-expanded=${i.length?`true`:D}
      data-id=${e.id}
    >
      <div class="row" title="${e.name}: ${e.prompt}" @click=${()=>Et(e.id)}>
        <frame-picture .take=${e.id} .frame=${e.frames?a:-1} .ratio=${e.width/e.height}></frame-picture>
        ${J(e.name)}
        <span class="quiet time">${e.parent?`at ${z(e.parent_seconds)}`:z(e.made_seconds)}</span>
      </div>
      ${i.length?w`<div role="group">${i.map(e=>this.item(e,r))}</div>`:D}
    </div>`}forkFrame(e){return Math.min(e.frames-1,Math.round((e.parent_seconds??0)*e.fps))}move(e){let t=[...this.renderRoot.querySelectorAll(`[role="treeitem"]`)],n=t.indexOf(e.target),r={ArrowDown:t[n+1],ArrowUp:t[n-1]}[e.key];if(r)r.focus();else if(e.key===`Enter`)Et(t[n].dataset.id);else return;e.preventDefault(),e.stopPropagation()}};customElements.define(`studio-history`,rr);var ir=200,ar=class extends q{constructor(...e){super(...e),this.watches=[`takes`,`leftOut`,`take`,`search`,`matches`,`studio`,`found`]}static{this.styles=[Y,o`
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
    `]}render(){let{search:e,found:t,matches:n}=this.state,r=Ze(this.state),i=n?[]:this.state.leftOut,a=!(t?t.hits:[...r,...i]).length;return w`
      <div class="head">
        <h2>Library</h2>
        <button class="primary" ?disabled=${!this.state.studio} @click=${()=>R.update({dialog:`new`})}>New take</button>
      </div>
      <input aria-label="Search" placeholder="Search by words" dir="auto" enterkeyhint="search" .value=${e} @input=${this.search} />
      ${this.find()}
      <div role="listbox" tabindex=${a?0:D} aria-label="Library" @keydown=${this.move}>
        ${t?t.hits.map((e,t)=>this.hit(e,t)):[Q(r,e=>e.id,(e,t)=>this.option(e,t)),i.map((e,t)=>this.leftOut(e,t===0&&!r.length))]}
      </div>
      ${a?w`<p class="quiet">${this.nothingHere()}</p>`:D}
    `}nothingHere(){let{found:e,matches:t,studio:n}=this.state;return n?e?`No take shows anything like it`:t?`No take has these words`:`No takes yet`:`Reading the takes …`}find(){let{found:e,take:t}=this.state;return e?w`<div class="find">
      <span class="quiet time one-line">Like ${z(e.seconds)} of ${e.take}</span>
      <button @click=${()=>R.update({found:null})} title="Back to all takes">Clear</button>
    </div>`:w`<div class="find">
        <button ?disabled=${!t?.frames} @click=${wt} title="Moments of all takes that look like the frame under the playhead">
          Find this frame
        </button>
        <span></span>
        <button ?disabled=${!t||t.status===`live`} @click=${()=>Gt(t)} title="Delete the take that is open (Delete)">
          Delete …
        </button>
      </div>`}hit(e,t){let n=this.state.takes.find(t=>t.id===e.take);return w`<div
      role="option"
      aria-selected="false"
      tabindex=${t===0?0:-1}
      data-id=${e.take}
      data-frame=${e.frame}
      @click=${()=>H(e.take,e.frame,!1)}
    >
      <frame-picture .take=${e.take} .frame=${e.frame} .ratio=${n?n.width/n.height:1}></frame-picture>
      <span class="words">
        ${J(n?.name??`a take`)}
        <span class="time">${z(e.seconds)} <span class="similarity" title="Similarity">${e.similarity.toFixed(3)}</span></span>
      </span>
    </div>`}option(e,t){let n=e.id===this.state.take?.id;return w`<div
      role="option"
      aria-selected=${n}
      tabindex=${n||t===0&&!Ze(this.state).some(({id:e})=>e===this.state.take?.id)?0:-1}
      data-id=${e.id}
      data-name=${e.name}
      title="${e.name}: ${e.prompt}"
      @click=${()=>Et(e.id)}
    >
      <frame-picture .take=${e.id} .frame=${e.frames?0:-1} .ratio=${e.width/e.height}></frame-picture>
      <span class="words">
        ${J(e.name)}
        <span class="quiet time one-line">
          ${e.status===`finished`?``:w`<span class=${e.status}>${e.status}</span> · `}${z(e.made_seconds)} · <bdi>${e.prompt}</bdi>
        </span>
      </span>
    </div>`}leftOut({id:e,name:t,reason:n},r){return w`<div role="option" aria-selected="false" aria-disabled="true" tabindex=${r?0:-1} data-id=${e} data-name=${t} title="Press Delete to delete it">
      <span class="no-picture" aria-hidden="true">!</span>
      <span class="words">${J(t)}<span class="reason">${n}</span></span>
    </div>`}search(e){let t=e.target.value;clearTimeout(this.waiting),this.waiting=setTimeout(()=>St(t),ir)}move(e){let t=[...this.renderRoot.querySelectorAll(`[role="option"]`)],n=t.indexOf(e.target),r={ArrowDown:n+1,ArrowUp:n-1,Home:0,End:t.length-1},i=[...this.state.takes,...this.state.leftOut].find(({id:e})=>e===t[n]?.dataset.id);if(e.key===`Enter`)t[n].click();else if(e.key===`Delete`&&i&&!this.state.found)Gt(i);else if(e.key in r)t[r[e.key]]?.focus();else return;e.preventDefault(),e.stopPropagation()}};customElements.define(`studio-library`,ar);var or=Zt(class extends Qt{constructor(e){if(super(e),e.type!==K.PROPERTY&&e.type!==K.ATTRIBUTE&&e.type!==K.BOOLEAN_ATTRIBUTE)throw Error("The `live` directive is not allowed on child or event bindings");if(!En(e))throw Error("`live` bindings can only contain a single expression")}render(e){return e}update(e,[t]){if(t===E||t===D)return t;let n=e.element,r=e.name;if(e.type===K.PROPERTY){if(t===n[r])return E}else if(e.type===K.BOOLEAN_ATTRIBUTE){if(!!t===n.hasAttribute(r))return E}else if(e.type===K.ATTRIBUTE&&n.getAttribute(r)===t+``)return E;return kn(e),t}}),$=560,sr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`frame`]}static{this.styles=[Y,o`
      figure {
        margin: 0;
      }
      canvas {
        display: block;
        width: 100%;
        height: clamp(150px, 24vh, 420px);
        background: var(--ground);
        border: 1px solid var(--line);
        cursor: crosshair;
      }
      figcaption {
        display: flex;
        justify-content: space-between;
        font-size: 0.9em;
      }
    `]}render(){let{take:e}=this.state,t=e?I(e):0;return w`<figure>
      <canvas
        width=${$}
        height=${$}
        role="application"
        tabindex="0"
        aria-label="Map of the memory: across the block that was made, up the past moment it brought back. Left and right go from block to block, Enter to what it brought back"
        title="Click (or ← →): to the block. Shift and click (or Enter): to the past moment it brought back"
        @keydown=${this.key}
        @click=${e=>this.pick(e,e.shiftKey)}
        @contextmenu=${e=>this.pick(e,!0)}
      ></canvas>
      <figcaption class="quiet time"><span>0:00</span><span>made at → · brought back ↑</span><span>${z(t)}</span></figcaption>
    </figure>`}updated(){let{take:e,frame:t}=this.state,n=this.renderRoot.querySelector(`canvas`).getContext(`2d`);if(n.clearRect(0,0,$,$),!e)return;let r=$/I(e);lr(n),ur(n,e,t,r);let i=F(e.segments,t)?.block,a=Math.max(2,(e.segments.at(-2)?.frames??1)*(r/e.fps)-1);for(let t of e.memory)dr(n,t,r,a,t.block===i)}key(e){let{take:t,frame:n}=this.state,r=t&&F(t.segments,n)?.block;if(r==null)return;let i=t.memory.filter(e=>e.remembered.some(cr));if(e.key===`ArrowLeft`)this.goTo(i.findLast(e=>e.block<r));else if(e.key===`ArrowRight`)this.goTo(i.find(e=>e.block>r));else if(e.key===`Enter`){let e=i.find(e=>e.block===r)?.remembered.find(cr);e&&U(e.frame)}else return;e.preventDefault()}goTo(e){e&&U(this.state.take.segments[e.block].first_frame)}pick(e,t){e.preventDefault();let{take:n}=this.state;if(!n)return;let r=e.currentTarget.getBoundingClientRect(),i=I(n),a=(e.clientX-r.left)/r.width*i,o=(1-(e.clientY-r.top)/r.height)*i;if(!t)return U(a*n.fps);let s=n.memory.findLast(e=>e.seconds<=a)?.remembered.filter(cr)??[],c=e=>Math.abs(e-o),l=s.sort((e,t)=>c(e.seconds)-c(t.seconds))[0];U(l?l.frame:o*n.fps)}};function cr(e){return e.take===null&&e.frame!==null&&e.seconds!==null}function lr(e){e.strokeStyle=`#3a4048`,e.beginPath(),e.moveTo(0,$),e.lineTo($,0),e.stroke()}function ur(e,t,n,r){for(let n of t.cues)e.fillStyle=n.cut?`#ffffff`:`#2f343a`,e.fillRect(n.seconds*r,0,1,$);e.fillStyle=`#f0b64d`;let i=n/t.fps*r;e.fillRect(i,0,2,$),e.globalAlpha=.45,e.fillRect(i,$-i,$-i,1),e.globalAlpha=1}function dr(e,t,n,r,i){for(let a of t.remembered)cr(a)&&(e.fillStyle=i?`#ffffff`:`#6cc4b4`,e.globalAlpha=i?1:Math.max(.25,a.similarity**4),e.fillRect(t.seconds*n,$-a.seconds*n-5,r,i?10:7));e.globalAlpha=1}customElements.define(`memory-map`,sr);var fr=5,pr={pin:`Bring it back for every block from now on`,exclude:`Never bring it back from now on`},mr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`frame`,`markIn`,`markOut`,`studio`]}static{this.styles=[Y,o`
      :host {
        display: grid;
        grid-template: auto auto auto minmax(0, 1fr) auto / minmax(0, 1fr);
        gap: 0.5em;
        padding: 0.6em 0.7em;
        background: var(--panel);
        min-height: 0;
      }
      .head {
        display: flex;
        justify-content: space-between;
        align-items: baseline;
      }
      p {
        margin: 0;
      }
      .frames {
        overflow-y: auto;
        min-height: 0;
      }
      li.remembered {
        display: grid;
        grid-template-columns: clamp(3.7em, 7vh, 6em) minmax(0, 1fr) auto auto;
        gap: 0.45em;
        align-items: center;
        padding: 0.2em 0;
      }
      .picture {
        padding: 0;
        border-radius: 2px;
        overflow: hidden;
      }
      .similarity {
        color: var(--memory);
      }
      .policy {
        display: flex;
        gap: 0.5em;
        align-items: center;
      }
      .policy select {
        flex: none;
        padding: 0.1em 0.3em;
      }
      .told {
        display: flex;
        flex-wrap: wrap;
        gap: 0.3em;
        max-height: 4em;
        overflow-y: auto;
      }
      .told button {
        padding: 0 0.5em;
      }
      .told .pin {
        border-color: var(--memory);
      }
      .told .exclude {
        border-color: var(--live);
      }
      .recalled {
        display: flex;
        gap: 0.3em;
        flex-wrap: wrap;
        align-items: center;
        height: 3.9em;
        align-content: start;
        overflow: hidden;
      }
      .recalled button {
        padding: 0 0.4em;
      }
      .range {
        display: flex;
        gap: 0.4em;
        align-items: center;
      }
      .range span {
        flex: 1;
        color: var(--quiet);
      }
    `]}connectedCallback(){super.connectedCallback(),this.setAttribute(`role`,`region`),this.setAttribute(`aria-label`,`Memory`)}render(){let{take:e,frame:t}=this.state;if(!e)return w`<h2>Memory</h2>
        <p class="quiet">For the block under the playhead: the past frames that it brought back, to be pinned or excluded.</p>`;let n=F(e.segments,t)?.block??0,r=e.memory.find(e=>e.block===n);return w`
      <div class="head">
        <h2>Memory</h2>
        <span class="quiet time">block ${n}${r?.policy?`, chosen by ${r.policy}`:D}</span>
      </div>
      ${this.policy(e)}
      <memory-map></memory-map>
      <ul class="frames" role="list" aria-label="Remembered frames">
        ${r?.remembered.length?Q(r.remembered,e=>`${e.take}/${e.latent_frame}`,t=>this.remembered(t,e)):w`<li class="quiet">
              ${nt(e)?`This block brought nothing back: nothing under words like its own has left its sight.`:`This take was made without memory.`}
            </li>`}
      </ul>
      <div>${this.told(e)} ${this.recalled(e)} ${this.range(e)}</div>
    `}policy(e){let t=tt(e,1/0),n=nt(e)?e.status===`live`?``:`the take isn't live`:`it has no memory`;return w`<label class="policy quiet">
      Policy
      <select
        ?disabled=${n!==``}
        title=${n||`Another one chooses from the next block on`}
        @change=${e=>Ut(e.target.value)}
      >
        ${this.state.studio?.policies.map(e=>w`<option ?selected=${e===t} .selected=${or(e===t)}>${e}</option>`)}
      </select>
      <span class="one-line">${n}</span>
    </label>`}told(e){let t=[`pin`,`exclude`].flatMap(t=>et(e,t).map(e=>({how:t,span:e})));return t.length?w`<div class="told" role="group" aria-label="Pinned and excluded">
      ${t.map(({how:t,span:[n,r]})=>{let[i,a]=t===`pin`?[`Pinned`,`unpin`]:[`Excluded`,`unexclude`],o=r-n<1?z(n):`${z(n)} – ${z(r)}`;return w`<button class="time ${t}" title="Take it back" ?disabled=${e.status!==`live`} @click=${()=>Ht(a,[n,r])}>
          ${i} ${o} ✕
        </button>`})}
    </div>`:D}remembered(e,t){let n=e.take!==null&&e.take!==t.id,r=e.frame??-1,i=e.seconds===null?`a lost frame`:z(e.seconds);return w`<li class="remembered">
      <button
        class="picture"
        aria-label="Go to ${i}"
        ?disabled=${r<0}
        @click=${()=>n?H(e.take,r):U(r)}
      >
        <frame-picture .take=${e.take??t.id} .frame=${r} .ratio=${t.width/t.height}></frame-picture>
      </button>
      <span class="time">
        ${i}${n?` of another take`:``}<br />
        <span class="similarity" title="Similarity">${e.similarity.toFixed(3)}</span>
      </span>
      ${n?D:[`pin`,`exclude`].map(n=>this.toggle(n,gr(e,t),t))}
    </li>`}toggle(e,t,n){let r=et(n,e).some(([e,n])=>e===t[0]&&n===t[1]),i=r?`un${e}`:e;return w`<button
      aria-pressed=${r}
      title=${n.status===`live`?pr[e]:`Only while the take is made`}
      ?disabled=${n.status!==`live`}
      @click=${()=>Ht(i,t)}
    >
      ${e===`pin`?`Pin`:`Exclude`}
    </button>`}recalled(e){let{frame:t}=this.state,n=F(e.segments,t),r=n?e.memory.filter(e=>hr(e,n.first_frame,n.first_frame+n.frames)):[];return w`<div class="recalled quiet">
      ${r.length?`Brought back at`:`What is shown now was not brought back yet`}
      ${r.slice(0,fr).map(t=>w`<button class="time" @click=${()=>U(e.segments[t.block].first_frame)}>${z(t.seconds)}</button>`)}
      ${r.length>fr?`and ${r.length-fr} more`:D}
    </div>`}range(e){let{markIn:t,markOut:n,frame:r}=this.state,i=t!==null||n!==null,a=(i?t??0:r)/e.fps,o=((i?n??e.frames-1:r)+1)/e.fps;return w`<div class="range">
      <span>${i?`Marked ${z(a)} – ${z(o)}`:`This frame, ${z(a)}`}</span>
      ${this.toggle(`pin`,[a,o],e)} ${this.toggle(`exclude`,[a,o],e)}
    </div>`}};function hr(e,t,n){return e.remembered.some(e=>e.take===null&&e.frame!==null&&e.frame>=t&&e.frame<n)}function gr(e,t){let n=e.frame??0,r=e.latent_frame>0?Math.max(1,Math.round(n/e.latent_frame)):1;return[n/t.fps,(n+r)/t.fps]}customElements.define(`studio-memory`,mr);var _r=2,vr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`jumps`,`rate`,`stats`,`connected`],this.openId=``,this.jumpsSeen=-1,this.shown=0,this.held=!1,this.watchFrames=()=>{this.video.requestVideoFrameCallback((e,t)=>{this.frameShown(t.mediaTime),this.watchFrames()})},this.stalled=()=>{let{take:e}=this.state,{readyState:t,seeking:n,currentTime:r}=this.video;if(!e?.frames||n||t<HTMLMediaElement.HAVE_CURRENT_DATA)return;let i=Math.min(Math.floor(r*e.fps),e.frames-1);this.frameShown(i/e.fps),i===e.frames-2&&(this.video.currentTime=(i+1.5)/e.fps)}}static{this.styles=[Y,o`
      :host {
        display: grid;
        grid-template-rows: minmax(0, 1fr) auto;
        background: #000;
        min-height: 0;
      }
      video,
      canvas {
        grid-area: 1 / 1;
        width: 100%;
        height: 100%;
        object-fit: contain;
        min-height: 0;
      }
      div {
        display: flex;
        flex-wrap: wrap;
        column-gap: 1.6em;
        height: 1.8em;
        padding: 0.2em 0.7em;
        background: var(--panel);
        color: var(--quiet);
        white-space: nowrap;
        overflow: hidden;
      }
      div b {
        color: var(--text);
        font-weight: 500;
      }
      p {
        grid-area: 1 / 1;
        place-self: center;
        margin: 0;
        color: var(--quiet);
      }
      .offline {
        color: var(--live);
      }
    `]}connectedCallback(){super.connectedCallback(),this.setAttribute(`role`,`region`),this.setAttribute(`aria-label`,`Stage`)}render(){let{take:e,stats:t,connected:n}=this.state;return w`
      <canvas aria-hidden="true"></canvas>
      <video muted playsinline tabindex="-1" aria-label="The take"></video>
      <p role="status">${e?.status===`live`&&!e.waiting&&!e.frames?`The first block is being made …`:``}</p>
      <div role="status" aria-live="off" class="time">
        ${e?w`<span>made <b>${z(e.made_seconds)}</b></span>
              <span>shown <b id="shown"></b></span>
              <span><b>${t?t.fps.toFixed(1):`–`}</b> frames a second</span>
              <span>memory in use <b>${t?dt(t.memory_bytes):`–`}</b></span>`:D}
        ${n===!1?w`<span class="offline">not connected; trying again</span>`:D}
      </div>
    `}firstUpdated(){this.video=this.renderRoot.querySelector(`video`),this.video.muted=!0,this.video.addEventListener(`waiting`,this.stalled),this.watchFrames()}updated(){let{take:e,jumps:t,rate:n}=this.state;if(e?.id!==this.openId&&this.openFeed(),!e)return;this.feed.update(e.segments);let r=t!==this.jumpsSeen;this.jumpsSeen=t,n>0?this.play(n):this.pause(n,r),r&&this.showPlayhead(),this.follow()}openFeed(){let{take:e}=this.state;this.holdPicture(e?.parent===this.openId),this.feed?.close(),this.openId=e?.id??``,this.shown=this.state.frame,this.sayShown(),this.feed=e?new Wn(this.video,e.fps,e.mime,V):void 0,this.jumpsSeen=-1}holdPicture(e){let{videoWidth:t,videoHeight:n}=this.video;this.held=e&&t>0;let r=this.renderRoot.querySelector(`canvas`);Object.assign(r,{width:t||1,height:n||1}),this.held&&r.getContext(`2d`).drawImage(this.video,0,0)}showPlayhead(){let{take:e,frame:t}=this.state;e&&(this.video.currentTime=(t+.5)/e.fps,this.tellPlayhead())}play(e){clearInterval(this.backwards),this.video.playbackRate=e,this.video.paused&&this.video.play().catch(()=>{})}pause(e,t){clearInterval(this.backwards),this.video.paused||(this.video.pause(),!t&&!this.video.seeking&&R.update({frame:this.shown}),this.showPlayhead()),e<0&&(this.backwards=setInterval(()=>this.stepBack(),1e3/(this.state.take.fps*-e)))}stepBack(){this.video.seeking||(this.state.frame===0?R.update({rate:0}):U(this.state.frame-1))}follow(){let{take:e,following:t,rate:n,frame:r}=this.state;if(!t||n<=0||!e)return;let i=e.segments.at(-1),a=F(e.segments,r);!i||!a||i.block-a.block<=_r||(R.update({frame:i.first_frame}),this.showPlayhead())}frameShown(e){let{take:t,rate:n}=this.state;if(!t)return;this.held&&this.holdPicture(!1),this.shown=Math.round(e*t.fps),this.video.dataset.frame=String(this.shown),this.sayShown(),n>0&&!this.video.seeking&&(R.update({frame:this.shown}),this.shown>=t.frames-1&&t.status!==`live`&&R.update({rate:0}));let r=F(t.segments,this.shown)?.block;r!==this.toldBlock&&(this.toldBlock=r,this.tellPlayhead())}sayShown(){let{take:e}=this.state,t=this.renderRoot.querySelector(`#shown`);t&&e&&(t.textContent=z(this.shown/e.fps))}tellPlayhead(){let{take:e,frame:t}=this.state;e&&P.tell({type:`playhead`,take:e.id,seconds:t/e.fps})}};customElements.define(`studio-stage`,vr);var yr=4,br=200,xr=600,Sr=class extends q{static{this.properties={edited:{state:!0},dragged:{state:!0}}}static{this.styles=[Y,o`
      :host {
        display: grid;
        grid-template: 4.9em auto minmax(0, 1fr) / minmax(0, 1fr);
        background: var(--panel);
        border-top: 1px solid var(--line);
        min-height: 0;
      }
      .lane {
        position: relative;
        margin: 0 0.7em;
      }
      .strip {
        position: absolute;
        inset: 0;
        cursor: pointer;
        touch-action: none;
      }
      .strip svg {
        position: absolute;
        inset: 0;
        width: 100%;
        height: 100%;
        overflow: visible;
      }
      .made {
        fill: #3a4048;
      }
      .range {
        fill: var(--focus);
        opacity: 0.28;
      }
      .pin {
        fill: var(--memory);
      }
      .exclude {
        fill: var(--live);
      }
      .curve {
        position: absolute;
        left: 0;
        top: 1.7em;
        width: 100%;
        height: 2.3em;
        pointer-events: none;
      }
      .curve path {
        fill: none;
        stroke: var(--text);
        stroke-width: 1.5;
        vector-effect: non-scaling-stroke;
      }
      .handle {
        position: absolute;
        top: 1.2em;
        height: 3.3em;
        width: 1.9em;
        margin-left: -0.95em;
        padding: 0;
        border: none;
        background: none;
        cursor: ew-resize;
        touch-action: none;
      }
      .handle:hover:not(:disabled) {
        background: none;
      }
      .handle::before {
        content: "";
        position: absolute;
        left: calc(50% - 0.45em);
        top: 0;
        border: 0.45em solid transparent;
        border-top: 0.6em solid var(--text);
        border-bottom: none;
      }
      .handle::after {
        content: "";
        position: absolute;
        left: calc(50% - 1px);
        top: 0;
        bottom: 0;
        border-left: 2px dashed var(--text);
      }
      .handle span {
        position: absolute;
        left: 50%;
        top: -1.25em;
        transform: translateX(-50%);
        padding: 0 0.3em;
        background: var(--text);
        color: var(--ground);
        border-radius: 2px;
        font-size: 0.85em;
        visibility: hidden;
      }
      .handle:is(:hover, :focus-visible, .dragged) span {
        visibility: visible;
      }
      .legend {
        display: flex;
        gap: 1.2em;
        align-items: center;
        flex-wrap: wrap;
        min-height: 1.9em;
        padding: 0 0.7em;
        white-space: nowrap;
      }
      .legend > .one-line {
        flex: 1;
        min-width: 0;
      }
      .tick {
        stroke: #1a1c1f;
      }
      .cue {
        stroke: var(--text);
        stroke-width: 2;
      }
      .cut {
        stroke: #ffffff;
        stroke-width: 5;
      }
      .shot {
        border: 1px solid var(--quiet);
        border-radius: 3px;
        padding: 0 0.4em;
        font-size: 0.85em;
      }
      text {
        fill: var(--quiet);
        font-size: 0.85em;
        font-variant-numeric: tabular-nums;
      }
      .asked {
        fill: #22252a;
      }
      .playhead {
        position: absolute;
        top: 0;
        bottom: 0;
        width: 2px;
        margin-left: -1px;
        background: var(--playhead);
        pointer-events: none;
      }
      .cues {
        overflow-y: auto;
        padding: 0.2em 0.7em;
      }
      li {
        display: flex;
        gap: 0.6em;
        align-items: center;
        min-height: 2em;
      }
      li button.time {
        border-color: transparent;
        background: none;
        padding: 0 0.3em;
        color: var(--text);
      }
      li.now .words {
        color: var(--playhead);
      }
      .words {
        flex: 1;
        text-align: left;
      }
      form {
        display: flex;
        flex: 1;
        gap: 0.4em;
      }
      form input:last-of-type {
        flex: 1;
      }
    `]}constructor(){super(),this.watches=[`take`,`frame`,`markIn`,`markOut`,`studio`,`embedder`,`drifts`],this.focusNext=null,this.moved={part:``,seconds:0},this.moving=null,this.queued=0,this.edited=null,this.dragged=null}render(){let{take:e,frame:t}=this.state;if(!e)return D;let n=[{number:0,seconds:0,prompt:e.prompt,cut:!1,reached:!0,planned_id:null},...e.cues],r=t/e.fps,i=n.filter(e=>e.reached&&e.seconds<=r+1e-6).at(-1);return w`
      <div class="lane">
        <div
          class="strip"
          role="slider"
          tabindex="0"
          aria-label="Playhead"
          aria-valuemin="0"
          aria-valuemax=${Math.max(0,e.frames-1)}
          aria-valuenow=${t}
          aria-valuetext=${ut(t,e.fps)}
          @pointerdown=${this.grab}
          @pointermove=${this.drag}
        >
          ${this.strip(e)}
        </div>
        ${this.curve(e)}
        <div class="playhead" ${en({left:`${100*r/I(e)}%`})}></div>
        ${Q(e.cues.filter(e=>e.planned_id),e=>e.planned_id,t=>this.handle(t,e))}
      </div>
      ${this.legend(e)}
      <ul class="cues" role="list" aria-label="Cues">
        ${Q(n,e=>e.planned_id??e.seconds,t=>w`<li class=${t===i?`now`:``}>${this.cue(t,e)}</li>`)}
      </ul>
    `}strip(e){let{markIn:t,markOut:n}=this.state,r=I(e),i=e=>`${100*e/r}%`,a=t??0,o=(n??e.frames-1)+1,s=[1,2,5,10,30,60,120,300].find(e=>r/e<=12)??600,c=Array.from({length:Math.floor(r/s)+1},(e,t)=>t*s),l=Math.ceil(e.segments.length/br),u=e.segments.filter(e=>e.block%l===0);return w`<svg aria-hidden="true">
      ${c.map(e=>T`<text x=${i(e)} y="1em" text-anchor=${e===0?`start`:e>r*.97?`end`:`middle`}>${z(e).slice(0,-2)}</text>`)}
      <rect class="asked" x="0" y="1.6em" width="100%" height="2.5em"></rect>
      <rect class="made" x="0" y="1.6em" width=${i(e.made_seconds)} height="2.5em"></rect>
      ${u.map(e=>T`<line class="tick" x1=${i(e.seconds)} x2=${i(e.seconds)} y1="1.6em" y2="4.1em"></line>`)}
      ${[`pin`,`exclude`].map(t=>et(e,t).map(([e,n])=>T`<rect class=${t} x=${i(e)} width=${i(Math.max(n-e,r/300))} y="4.25em" height="0.3em"></rect>`))}
      ${t===null&&n===null?D:T`<rect class="range" x=${i(a/e.fps)} width=${i((o-a)/e.fps)} y="1.5em" height="2.6em"></rect>`}
      ${e.cues.filter(e=>!e.planned_id).map(e=>T`<line class=${e.cut?`cue cut`:`cue`} x1=${i(e.seconds)} x2=${i(e.seconds)} y1="1.3em" y2="4.4em"></line>`)}
    </svg>`}curve(e){let t=L(e,this.state);return!t||typeof t==`string`?D:w`<svg class="curve" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label=${`Drift curve by ${t.embedder}: likeness to the first second, from ${Fn([t]).toFixed(2)} to 1`}>
      <path d=${In(t,I(e),Fn([t]))}></path>
    </svg>`}legend(e){if(!it(e,this.state))return w`<div class="legend"></div>`;let t=L(e,this.state),n=e.status!==`live`&&e.status!==`running`;return w`<div class="legend">
      <drift-by></drift-by>
      ${t===void 0||typeof t==`string`?w`<span class="quiet one-line" title=${t??D}>${n?t??``:`measured when the take is made`}</span>`:(e=>w`<span class="time">${Ln(e)}</span>
      <span class="quiet">scale ${Fn([e]).toFixed(2)} – 1${e.independent?``:` · no independent judge`}</span>`)(t)}
    </div>`}willUpdate(){let{moving:e}=this;e?.answered&&!this.state.take?.cues.some(t=>t.planned_id===e.id)&&this.settle()}settle(){this.dragged?.id===this.moving?.id&&(this.dragged=null),this.moving=null}updated(){let{take:e}=this.state;if(e&&L(e,this.state)===void 0&&!this.measuring&&(this.measuring=setTimeout(()=>{this.measuring=void 0,this.state.take&&Wt(this.state.take)},xr)),e&&this.focusNext&&this.focusCue(e,this.focusNext),!e||!this.queued||this.moving)return;let t=e.cues.find(e=>e.planned_id&&Cr(e,this.moved.seconds));t&&this.moveCue(t,e,this.free(t,e,this.queued),this.moved.part)}focusCue(e,{part:t,seconds:n}){let r=e.cues.find(e=>e.planned_id&&Cr(e,n)),i=r&&this.renderRoot.querySelector(`.${t}[data-id="${r.planned_id}"]`);i&&(this.focusNext=null,i.focus())}handle(e,t){let n=e.planned_id,r=this.dragged?.id===n,i=r?this.dragged.seconds:e.seconds;return w`<button
      class=${r?`handle dragged`:`handle`}
      data-id=${n}
      aria-label="Planned ${e.cut?`cut`:`cue`} at ${z(i)}: ${e.prompt}"
      title="${e.prompt} — drag it, or ← → by a block; Enter edits, Delete withdraws"
      ${en({left:`${100*i/I(t)}%`})}
      @keydown=${n=>this.cueKey(n,e,t,`handle`)}
      @pointerdown=${t=>this.grabCue(t,e)}
      @pointermove=${n=>this.dragCue(n,e,t)}
      @pointerup=${()=>this.dropCue(e,t)}
      @pointercancel=${()=>this.dragged=null}
    >
      <span class="time">${z(i)}</span>
    </button>`}grabCue(e,t){e.button||(e.currentTarget.setPointerCapture(e.pointerId),this.dragged={id:t.planned_id,seconds:t.seconds,from:e.clientX})}dragCue(e,t,n){if(this.dragged?.id!==t.planned_id)return;let{width:r}=this.renderRoot.querySelector(`.lane`).getBoundingClientRect(),i=e.clientX-this.dragged.from,a=Math.abs(i)<yr?0:Math.round(i/r*I(n)/this.blockSeconds(n));this.dragged={...this.dragged,seconds:t.seconds+a*this.blockSeconds(n)}}async dropCue(e,t){let{dragged:n}=this;if(n?.id===e.planned_id){if(n.seconds!==e.seconds)return this.moveCue(e,t,n.seconds,`handle`);this.dragged=null,this.edit(e)}}cueKey(e,t,n,r){let i={ArrowLeft:-1,ArrowRight:1}[e.key];if(i&&this.moving)this.queued+=i;else if(i)this.moveCue(t,n,this.free(t,n,i),r);else if(e.key===`Enter`)this.edit(t);else if(e.key===`Delete`)this.withdraw(t);else if(e.key===`Escape`&&this.dragged)this.dragged=null;else return;e.preventDefault()}free(e,t,n){let r=e.seconds+(n-Math.sign(n))*this.blockSeconds(t);do r+=Math.sign(n)*this.blockSeconds(t);while(t.cues.some(e=>Cr(e,r)));return r}async moveCue(e,t,n,r){let i=t.cues.find(t=>t!==e&&Cr(t,n));if((i||this.moving)&&(this.dragged=null),i)return R.alert(`“${i.prompt}” takes over at ${z(n)}; move this cue elsewhere`);if(this.moving)return;this.moving={id:e.planned_id,answered:!1},this.queued=0;let a=Math.max(0,n);this.moved={part:r,seconds:a},this.focusNext=this.moved;let o=await W({do:`edit_cue`,planned_id:e.planned_id,prompt:e.prompt,at:a});if(!o)return this.queued=0,this.settle();o.planned_id===e.planned_id?this.settle():this.moving.answered=!0,this.moved.seconds=o.takes_over_at??a,R.update({note:`“${e.prompt}” takes over at ${z(this.moved.seconds)}`}),this.requestUpdate()}focusOn(e,t){this.focusNext={part:e,seconds:t},this.requestUpdate()}edit(e){this.edited=e.planned_id,this.updateComplete.then(()=>this.renderRoot.querySelector(`form [name=prompt]`)?.focus())}async withdraw(e){await W({do:`withdraw_cue`,planned_id:e.planned_id})&&(R.update({note:`“${e.prompt}” is withdrawn`}),this.renderRoot.querySelector(`.strip`)?.focus())}blockSeconds(e){return this.state.studio?.backbones.find(t=>t.name===e.backbone)?.seconds_a_block??(e.segments[1]??e.segments[0]).frames/e.fps}cue(e,t){if(e.planned_id&&e.planned_id===this.edited)return this.cueForm(e,t);let n=e.planned_id!==null;return w`
      <button
        class="time"
        data-id=${e.planned_id??D}
        title=${n?`← → move it by a block; Enter edits, Delete withdraws`:`Go there`}
        @click=${()=>n?this.edit(e):U(Math.ceil(e.seconds*t.fps-1e-6))}
        @keydown=${r=>n&&this.cueKey(r,e,t,`time`)}
        ?disabled=${!e.reached&&!n}
      >
        ${z(e.seconds)}
      </button>
      ${e.cut?w`<span class="shot">cut</span>`:D}
      <bdi class="words one-line">${e.prompt}</bdi>
      ${e.planned_id?w`<button @click=${()=>this.edit(e)}>Edit</button>
            <button @click=${()=>this.withdraw(e)}>Withdraw</button>`:D}
    `}cueForm(e,t){return w`<form
      @submit=${n=>this.saveCue(n,e,t)}
      @keydown=${t=>t.key===`Escape`&&this.leaveForm(e)}
    >
      <input name="at" size="7" aria-label="Timecode of the cue" .value=${z(e.seconds)} />
      <label><input type="checkbox" name="cut" .checked=${e.cut} /> Cut</label>
      <input name="prompt" aria-label="Words of the cue" dir="auto" .value=${e.prompt} />
      <button class="primary">Save</button>
      <button type="button" @click=${()=>this.leaveForm(e)}>Cancel</button>
    </form>`}async saveCue(e,t,n){e.preventDefault();let r=new FormData(e.target),i=String(r.get(`at`)),a=lt(i,n.fps);if(a===null)return R.alert(`“${i}” is not a timecode; write 12.5, 0:12.5 or 00:00:12:08`);let o=String(r.get(`prompt`)),s=await W({do:`edit_cue`,planned_id:t.planned_id,prompt:o,at:a,cut:r.has(`cut`)});s&&(this.edited=null,this.focusOn(`time`,s.takes_over_at??a))}leaveForm(e){this.edited=null,this.focusOn(`time`,e.seconds)}grab(e){e.button||(e.currentTarget.setPointerCapture(e.pointerId),R.update({rate:0}),this.moveTo(e))}drag(e){e.currentTarget.hasPointerCapture(e.pointerId)&&this.moveTo(e)}moveTo(e){let{take:t}=this.state,{left:n,width:r}=e.currentTarget.getBoundingClientRect();t&&U(Math.floor((e.clientX-n)/r*I(t)*t.fps))}};function Cr(e,t){return Math.abs(e.seconds-t)<.001}customElements.define(`studio-timeline`,Sr);var wr=[1,2,4,8],Tr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`frame`,`rate`,`following`,`markIn`,`markOut`,`pace`]}static{this.styles=[Y,o`
      :host {
        display: flex;
        align-items: center;
        gap: 0.3em;
        padding: 0.35em 0.6em;
        background: var(--panel);
        border-top: 1px solid var(--line);
      }
      @media (width < 75em) {
        :host {
          flex-wrap: wrap;
        }
      }
      input {
        width: 7.6em;
        padding-inline: 0;
        text-align: center;
        color: var(--playhead);
      }
      button {
        flex: none;
        padding-inline: 0.5em;
      }
      .play {
        width: 4.6em;
      }
      .rate {
        width: 1.4em;
      }
      .mark {
        display: flex;
        gap: 0.3em;
        align-items: center;
      }
      .range {
        width: 5.8em;
      }
      select {
        width: 10.9em;
        padding-inline: 0.2em;
      }
      label {
        margin-left: auto;
        white-space: nowrap;
      }
    `]}render(){let{take:e,frame:t,rate:n,following:r,markIn:i,markOut:a,pace:o}=this.state,s=e?.fps??1,c=this.renderRoot.querySelector(`input:focus`)?.value,l=e=>e===null?`––`:ut(e,s);return w`
      <button @click=${()=>jt(-1)} ?disabled=${!e} aria-label="Previous frame" title="Previous frame (←)">◂|</button>
      <button class="play primary" @click=${Nt} ?disabled=${!e} title="Space">${n?`Pause`:`Play`}</button>
      <button @click=${()=>jt(1)} ?disabled=${!e} aria-label="Next frame" title="Next frame (→)">|▸</button>
      <button @click=${Pt} ?disabled=${!e} aria-pressed=${r} title="End">Go to end</button>
      <input
        class="time"
        aria-label="Timecode"
        title="12.5, 0:12.5 or 00:00:12:08, then Enter"
        .value=${or(c??ut(t,s))}
        ?disabled=${!e}
        @keydown=${this.enterTimecode}
        @focus=${e=>e.target.select()}
        @blur=${()=>this.requestUpdate()}
      />
      <span class="rate quiet time">${n&&n!==1?`${n}×`:``}</span>
      <span class="mark">
        <button @click=${()=>Ft(`markIn`)} ?disabled=${!e} title="Mark in (I)">In</button>
        <span class="time quiet range">${l(i)}</span>
      </span>
      <span class="mark">
        <button @click=${()=>Ft(`markOut`)} ?disabled=${!e} title="Mark out (O)">Out</button>
        <span class="time quiet range">${l(a)}</span>
      </span>
      <button @click=${It} ?disabled=${i===null&&a===null} aria-label="Clear marks" title="Clear marks (X)">✕</button>
      <label class="quiet">
        Pace
        <select @change=${this.choosePace} title="How far making may run ahead of the playhead">
          ${wr.map(e=>w`<option value=${e} ?selected=${e===o}>${e} ${e===1?`block`:`blocks`} ahead</option>`)}
          <option value="" ?selected=${o===null}>As fast as it can</option>
        </select>
      </label>
    `}enterTimecode(e){let t=e.target,{take:n}=this.state;if(e.key===`Escape`&&t.blur(),e.key!==`Enter`||!n)return;let r=lt(t.value,n.fps);r===null?R.alert(`“${t.value}” is not a timecode; write 12.5, 0:12.5, 1:02:03.5 or 00:00:12:08`):(R.update({rate:0}),U(Math.floor(r*n.fps+1e-4)),t.blur())}choosePace(e){let{value:t}=e.target;kt(t?Number(t):null)}};customElements.define(`studio-transport`,Tr);var Er=8,Dr=`input, textarea, select, dialog, [popover]`,Or={" ":Nt,k:()=>Mt(0),j:()=>Mt(kr(-1)),l:()=>Mt(kr(1)),ArrowLeft:e=>jt(e.shiftKey?-Ar():-1),ArrowRight:e=>jt(e.shiftKey?Ar():1),Home:()=>U(0),End:Pt,i:()=>Ft(`markIn`),o:()=>Ft(`markOut`),x:It,"?":()=>R.update({dialog:`help`})};function kr(e){let{rate:t}=R.state;return t*e>0?e*Math.min(Er,Math.abs(t)*2):e}function Ar(){return R.state.take?.fps??1}function jr(e){let t={...Or,d:()=>e(`Direction`),"/":()=>e(`Search`)},n=!1;addEventListener(`pointerdown`,()=>n=!1,{capture:!0}),addEventListener(`keydown`,e=>{if(e.key===`Tab`&&(n=!0),e.ctrlKey||e.metaKey||e.altKey||e.defaultPrevented)return;let r=e.composedPath().filter(e=>e instanceof Element);if(r.some(e=>e.matches(Dr))||e.key===` `&&r[0].matches(`button, summary, a`)&&n)return;let i=e.key.length===1?e.key.toLowerCase():e.key;i in t&&(e.preventDefault(),t[i](e))})}var Mr=class extends q{constructor(...e){super(...e),this.watches=[`take`,`frame`,`compared`,`note`,`studio`]}static{this.styles=[Y,o`
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
    `]}render(){let{take:e,frame:t,compared:n,note:r,studio:i}=this.state,a=n?`minmax(0, 1fr) minmax(0, ${Math.max(1,n.length)}fr)`:`minmax(0, 1fr)`;return w`
      <header>
        <h1>Studio</h1>
        <span class="quiet">${i?.takes_folder??``}</span>
        <span class="title one-line">
          ${e?w`${e.name} <span class=${e.status===`live`?`live`:`quiet`}>${e.waiting?`waiting`:e.status}</span>
                <bdi class="quiet">${$e(e,t/e.fps)}</bdi>`:D}
        </span>
        <span class="note quiet one-line" role="log" title=${r}>${r}</span>
        <button aria-pressed=${n!==null} ?disabled=${!e} @click=${()=>R.update({compared:n?null:[]})}>Compare</button>
        <button ?disabled=${!i} @click=${()=>R.update({dialog:`runs`})}>Runs</button>
        <export-menu></export-menu>
        <button aria-label="Keys" title="Keys (?)" @click=${()=>R.update({dialog:`help`})}>?</button>
      </header>
      <aside class="left">
        <studio-library></studio-library>
        <studio-history></studio-history>
      </aside>
      <main>
        <div class=${n?`pictures compared`:`pictures`} ${en({"grid-template-columns":a})}>
          <studio-stage></studio-stage>
          ${n?w`<studio-compare></studio-compare>`:D}
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
    `}firstUpdated(){jr(e=>this.focusTextbox(e)),addEventListener(`pagehide`,_t),addEventListener(`hashchange`,()=>location.reload()),ht()}async focusPlayhead(){let e=this.renderRoot.querySelector(`studio-timeline`);await e.updateComplete,e.renderRoot.querySelector(`[role="slider"]`)?.focus()}updated(){let{take:e}=this.state;document.title=e?`${e.name} – Studio`:`Studio`}focusTextbox(e){this.renderRoot.querySelector(e===`Direction`?`studio-direction`:`studio-library`)?.shadowRoot?.querySelector(`[aria-label="${e}"]`)?.focus()}};customElements.define(`studio-app`,Mr);