package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"io"

	"github.com/kith-p2p/kith/p2p"
)

// The handshake has two rounds, in which both sides speak at once:
//
//	nonce  32 bytes
//	proof  node info, public key, signature over what was said so far and by whom
const (
	signatureContext = "memory handshake v1"
	maxHello         = 64 << 10
)

// hello is a piece of the handshake: a nonce, or a proof.
type hello struct {
	nonce          []byte
	info, key, sig []byte
	pub            p2p.PubKey // what key stands for
}

func (h *hello) size() int { return len(h.nonce) + len(h.info) + len(h.key) + len(h.sig) }

// Handshake exchanges node infos and proves both keys. It returns ErrHandshake
// when the peer does not prove the NodeID that it claims, io.EOF or ErrReset when
// the connection ends, and the context's error when that ends; each closes the
// connection.
func (c *Connection) Handshake(ctx context.Context, info p2p.NodeInfo, key p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	if !c.handshake.CompareAndSwap(handshakeNone, handshakeUnderWay) {
		return p2p.NodeInfo{}, p2p.PubKey{}, fmt.Errorf("%w: it comes once", ErrHandshake)
	}
	stop := context.AfterFunc(ctx, func() { c.close(fmt.Errorf("memory: handshake: %w", ctx.Err())) })
	theirs, pub, err := c.shake(info, key)
	if !stop() && err == nil {
		err = fmt.Errorf("memory: handshake: %w", ctx.Err())
	}
	if err != nil {
		return p2p.NodeInfo{}, p2p.PubKey{}, c.fail(err)
	}
	own := make(map[p2p.ChannelID]int, len(info.Channels))
	for _, id := range info.Channels {
		own[id] = p2p.DefaultMaxMessage
	}
	c.limits.Store(&own)
	c.handshake.Store(handshakeDone)
	return theirs, pub, nil
}

func (c *Connection) shake(info p2p.NodeInfo, key p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	var (
		none   p2p.NodeInfo
		packed bytes.Buffer
		nonce  = make([]byte, 32)
	)
	if key.IsZero() {
		return none, p2p.PubKey{}, fmt.Errorf("%w: without a private key", ErrHandshake)
	}
	if err := gob.NewEncoder(&packed).Encode(info); err != nil {
		return none, p2p.PubKey{}, fmt.Errorf("%w: our node info: %w", ErrHandshake, err)
	}
	if packed.Len() > maxHello {
		return none, p2p.PubKey{}, fmt.Errorf("%w: our node info has %d bytes, at most %d", ErrHandshake, packed.Len(), maxHello)
	}
	c.pair.net.random(nonce)
	if err := c.say(&hello{nonce: nonce}); err != nil {
		return none, p2p.PubKey{}, err
	}
	theirs, err := c.hear()
	if err == nil && len(theirs.nonce) != len(nonce) {
		err = fmt.Errorf("%w: the peer's nonce has %d bytes", ErrHandshake, len(theirs.nonce))
	}
	if err != nil {
		return none, p2p.PubKey{}, err
	}
	sig, err := key.SignContext(signatureContext, c.transcript(nonce, theirs.nonce, c.dialled, packed.Bytes()))
	if err != nil {
		return none, p2p.PubKey{}, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	public := key.Public()
	if err := c.say(&hello{info: packed.Bytes(), key: public.Bytes(), sig: sig, pub: public}); err != nil {
		return none, p2p.PubKey{}, err
	}
	proof, err := c.hear()
	if err != nil {
		return none, p2p.PubKey{}, err
	}
	if !proof.pub.VerifyContext(signatureContext, c.transcript(nonce, theirs.nonce, !c.dialled, proof.info), proof.sig) {
		return none, p2p.PubKey{}, fmt.Errorf("%w: the peer did not prove its key", ErrHandshake)
	}
	var peer p2p.NodeInfo
	if err := gob.NewDecoder(bytes.NewReader(proof.info)).Decode(&peer); err != nil {
		return none, p2p.PubKey{}, fmt.Errorf("%w: the peer's node info: %w", ErrHandshake, err)
	}
	if id := proof.pub.NodeID(); peer.NodeID != id {
		return none, p2p.PubKey{}, fmt.Errorf("%w: the peer claims to be %.50q, its key is that of %s", ErrHandshake, peer.NodeID, id)
	}
	return peer, proof.pub, nil
}

// transcript is what a side signs: both nonces, who it is, and its node info.
func (c *Connection) transcript(own, theirs []byte, dialler bool, info []byte) []byte {
	first, second := own, theirs
	if !c.dialled {
		first, second = theirs, own
	}
	h := sha256.New()
	h.Write(first)
	h.Write(second)
	if dialler {
		h.Write([]byte("dialler"))
	} else {
		h.Write([]byte("listener"))
	}
	h.Write(info)
	return h.Sum(nil)
}

func (c *Connection) say(h *hello) error {
	if err := c.alive(); err != nil {
		return err
	}
	if _, err := c.out.put(segment{hello: h}); err != nil {
		return err
	}
	return c.flush()
}

func (c *Connection) hear() (*hello, error) {
	for {
		h, wait, err := c.in.readHello()
		if h != nil || err != nil {
			return h, err
		}
		if err := c.await(c.in.ready, wait); err != nil {
			return nil, err
		}
	}
}

// tooEarly is what methods return that come before the handshake.
func (c *Connection) tooEarly(what string) error {
	if err := c.alive(); err != nil && err != io.EOF {
		return err
	}
	return fmt.Errorf("%w: it comes before any %s", ErrHandshake, what)
}
