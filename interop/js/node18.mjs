// What js-libp2p uses of newer versions of Node.js than Debian's 18 or 20:
// CustomEvent and crypto are everywhere from 20 on, Promise.withResolvers from 22 on.
import { webcrypto } from 'node:crypto'

globalThis.crypto ??= webcrypto
globalThis.CustomEvent ??= class CustomEvent extends Event {
  #detail
  constructor (type, options) {
    super(type, options)
    this.#detail = options?.detail ?? null
  }

  get detail () { return this.#detail }
}
Promise.withResolvers ??= function () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}
