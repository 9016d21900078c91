// js-libp2p uses Promise.withResolvers, which Node.js has from version 22 on.
Promise.withResolvers ??= function () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}
