// A libp2p peer that knows nothing of kith: the parts of js-libp2p as they come,
// and plain.mjs. It takes commands on standard input and answers on standard
// output, one JSON object a line, and ends with its input:
//
//   node peer.mjs
//   {"id": 1, "do": "dial", "address": "/ip4/127.0.0.1/tcp/20000/p2p/12D3KooW..."}
//
// Bytes are base64. A command that fails answers {"id", "error"}. What comes on a
// topic is told as {"topic", "data", "author", "by", "kind"}.
import './node18.mjs'
import { createInterface } from 'node:readline'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { multiaddr } from '@multiformats/multiaddr'
import { request, serve } from './plain.mjs'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(), pubsub: gossipsub() }
})

const say = object => process.stdout.write(JSON.stringify(object) + '\n')
const encode = bytes => Buffer.from(bytes).toString('base64')
const decode = text => new Uint8Array(Buffer.from(text, 'base64'))
const patience = () => ({ signal: AbortSignal.timeout(60_000) })

const identified = new Map() // by peer: what identify says, or who waits for it
const about = peer => {
  if (!identified.has(peer)) {
    identified.set(peer, Promise.withResolvers())
  }
  return identified.get(peer)
}
node.addEventListener('peer:identify', ({ detail }) => {
  about(detail.peerId.toString()).resolve({
    agent: detail.agentVersion,
    protocols: detail.protocols,
    addresses: detail.listenAddrs.map(a => a.toString()),
    observed: detail.observedAddr?.toString()
  })
})

await node.handle('/js/reverse/1', serve(body => body.reverse()))
await node.handle('/js/abort/1', async stream => stream.abort(new Error('not today')))

node.services.pubsub.addEventListener('gossipsub:message', ({ detail: { msg, propagationSource } }) => {
  say({ topic: msg.topic, data: encode(msg.data), author: msg.from?.toString() ?? '', by: propagationSource.toString(), kind: msg.type })
})

const commands = {
  async dial ({ address }) {
    const to = await node.dial(multiaddr(address), patience())
    return { peer: to.remotePeer.toString(), encryption: to.encryption, multiplexer: to.multiplexer }
  },
  async ping ({ address }) {
    return { milliseconds: await node.services.ping.ping(multiaddr(address), patience()) }
  },
  async identify ({ peer }) {
    return await about(peer).promise
  },
  // All bodies on one stream, or each on one of its own.
  async call ({ address, method, bodies, together }) {
    const answers = []
    for (const some of together ? [bodies] : bodies.map(b => [b])) {
      const stream = await node.dialProtocol(multiaddr(address), method, patience())
      answers.push(...await request(stream, some.map(decode), patience()))
    }
    return { answers: answers.map(encode) }
  },
  async subscribe ({ topic }) {
    node.services.pubsub.subscribe(topic)
  },
  async subscribers ({ topic }) {
    return { peers: node.services.pubsub.getSubscribers(topic).map(String) }
  },
  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, decode(data))
    return { peers: recipients.map(String) }
  },
  async connections () {
    return { peers: node.getConnections().map(c => c.remotePeer.toString()) }
  }
}

say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })

const doing = new Set()
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  const done = commands[command.do](command).then(
    result => say({ id: command.id, ...result }),
    err => say({ id: command.id, error: `${err.name}: ${err.message}` })
  ).finally(() => doing.delete(done))
  doing.add(done)
}
await Promise.all(doing)
await node.stop()
