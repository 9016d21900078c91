// The plain wire of kith and of PointSub v0.0.2, as the contract describes it:
// on a stream of the method's own protocol, the number of bytes of the body in
// four bytes, the most significant first, and then the body; once each way.
import { byteStream } from '@libp2p/utils'

const limit = 32 * 1024 * 1024

function frame (body) {
  const out = new Uint8Array(4 + body.length)
  new DataView(out.buffer).setUint32(0, body.length)
  out.set(body, 4)
  return out
}

async function readBody (bytes, options) {
  const head = (await bytes.read({ ...options, bytes: 4 })).subarray()
  const size = new DataView(head.buffer, head.byteOffset, 4).getUint32(0)
  if (size > limit) {
    throw new Error(`a body of ${size} bytes is announced`)
  }
  return size === 0 ? new Uint8Array() : (await bytes.read({ ...options, bytes: size })).slice()
}

// request sends bodies one after the other on a stream and returns the answers.
export async function request (stream, bodies, options) {
  const bytes = byteStream(stream, { maxBufferSize: limit + 4 })
  const answers = []
  try {
    for (const body of bodies) {
      await bytes.write(frame(body), options)
      answers.push(await readBody(bytes, options))
    }
    await stream.close(options)
    return answers
  } catch (err) {
    stream.abort(err)
    throw err
  }
}

// serve makes a stream handler of a function from a body to a body.
export function serve (answer) {
  return async stream => {
    try {
      const bytes = byteStream(stream, { maxBufferSize: limit + 4 })
      await bytes.write(frame(answer(await readBody(bytes))))
      await stream.close()
    } catch (err) {
      process.stderr.write(`${err.stack}\n`)
      stream.abort(err)
    }
  }
}
