package mconn

import (
	"crypto/ecdh"
	"errors"
	"fmt"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// A handshake in progress:
//
//	both    22 0a 20 <ephemeral key>                    in clear
//	both    AuthSigMessage { key, signature [, offer] } in the common frames
//	both    NodeInfo [more]                             in kith's frames, if both offered
//
// Each side sends its next message when it has seen, and checked, the other's
// one before; within a step both send at once.
type handshake struct {
	c     *Connection
	info  p2p.NodeInfo
	sign  p2p.PrivKey
	stage string

	key  p2p.PubKey // the peer's, once proved
	peer p2p.NodeInfo
}

func (h *handshake) run(ephemeral *ecdh.PrivateKey) error {
	agreed, err := h.agree(ephemeral)
	if err != nil {
		return err
	}
	offer := offerKith
	if h.c.opts.CometOnly {
		offer = 0
	}
	proof, err := h.proof(agreed, offer)
	if err != nil {
		return err
	}
	theirs, err := h.authenticate(agreed, proof)
	if err != nil {
		return err
	}
	if err := h.upgrade(agreed, offer, theirs); err != nil {
		return err
	}
	return h.introduce()
}

// agree exchanges ephemeral keys, and seals and opens from then on.
func (h *handshake) agree(ephemeral *ecdh.PrivateKey) (*agreement, error) {
	h.stage = "key exchange"
	var remote *ecdh.PublicKey
	err := h.exchange(ephemeralMessage(ephemeral.PublicKey()), func() (err error) {
		in := h.c.in
		if err = in.want(ephemeralSize); err == nil {
			remote, err = parseEphemeral(in.sealed[in.r : in.r+ephemeralSize])
			in.r += ephemeralSize
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	agreed, err := agree(ephemeral, remote)
	if err != nil {
		return nil, err
	}
	return agreed, h.use(agreed, false)
}

// upgrade goes over to kith's frames if both sides offered them.
func (h *handshake) upgrade(agreed *agreement, offer, theirs uint64) error {
	if offer&theirs&offerKith == 0 {
		return nil
	}
	if len(h.c.in.have()) > 0 {
		return fmt.Errorf("%w: more in it than the proof", ErrFrame)
	}
	agreed.kithKeys(offer, theirs)
	return h.use(agreed, true)
}

// use seals and opens with the agreed keys from now on.
func (h *handshake) use(a *agreement, kith bool) error {
	send, receive, err := a.ciphers()
	if err != nil {
		return err
	}
	h.c.out.cipher = frameCipher{aead: send, wide: kith}
	h.c.in.cipher = frameCipher{aead: receive, wide: kith}
	if kith {
		h.c.kith, h.c.packetMax = true, widePacketData
	}
	return nil
}

// proof is our AuthSigMessage.
func (h *handshake) proof(agreed *agreement, offer uint64) ([]byte, error) {
	signature, err := h.sign.Sign(agreed.challenge)
	if err != nil {
		return nil, err
	}
	return encodeAuth(h.sign.Public(), signature, offer)
}

// authenticate exchanges proofs of the node keys and returns the peer's offer,
// which the proof's frame protects.
func (h *handshake) authenticate(agreed *agreement, proof []byte) (uint64, error) {
	h.stage = "authentication"
	var theirs uint64
	h.c.pinged.Store(h.c.clock())
	err := h.exchangeSealed(proof, func() error {
		body, err := h.c.in.collect(maxAuth)
		if err != nil {
			return err
		}
		raw, signature, offered, err := decodeAuth(body)
		if err != nil {
			return err
		}
		key, err := identity.PubKeyFromBytes(raw)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAuth, err)
		}
		if !key.Verify(agreed.challenge, signature) {
			return fmt.Errorf("%w: the signature is not of %s", ErrAuth, key.NodeID())
		}
		if key == h.sign.Public() {
			// Both sides sign the same challenge, so this proves nothing.
			return fmt.Errorf("%w: it is our own key, so this is ourselves, or our proof sent back", ErrAuth)
		}
		h.key, theirs = key, offered
		return nil
	})
	return theirs, err
}

// introduce exchanges node infos.
func (h *handshake) introduce() error {
	h.stage = "node info"
	message, err := encodeNodeInfo(h.info, h.c.kith)
	if err != nil {
		return err
	}
	return h.exchangeSealed(message, func() error {
		body, err := h.c.in.collect(maxNodeInfo)
		if errors.Is(err, ErrPacketTooLarge) {
			err = fmt.Errorf("%w: %w", ErrNodeInfo, err)
		}
		if err != nil {
			return err
		}
		peer, err := decodeNodeInfo(body, h.c.kith)
		if err != nil {
			return err
		}
		if peer.NodeID != h.key.NodeID() {
			return fmt.Errorf("%w: it says %q, its key is of %s", ErrNodeInfo, peer.NodeID, h.key.NodeID())
		}
		// The peer sent this after it had our proof: a round trip.
		h.c.rtt.Store(h.c.clock() - h.c.pinged.Swap(0))
		h.peer = peer
		return nil
	})
}

// exchangeSealed is exchange of a message in frames.
func (h *handshake) exchangeSealed(message []byte, read func() error) error {
	plain := make([]byte, frameHead+len(message)+frameData)
	copy(plain[frameHead:], message)
	cipher := &h.c.out.cipher
	sealed, err := cipher.seal(make([]byte, 0, cipher.sealedSize(len(message))), plain, len(message))
	if err != nil {
		return err
	}
	return h.exchange(sealed, read)
}

// exchange writes while it reads, so that two peers who both write first do not
// wait for each other even on a pipe that holds nothing.
func (h *handshake) exchange(message []byte, read func() error) error {
	wrote := make(chan error, 1)
	go func() {
		_, err := h.c.nc.Write(message)
		wrote <- err
	}()
	if err := read(); err != nil {
		err = h.c.failed(err) // which ends the write
		<-wrote
		return err
	}
	return <-wrote
}

// error closes the connection and says how far the handshake came.
func (h *handshake) error(err error) error {
	if err = h.c.failed(err); h.c.here.Load() {
		err = errClosedHere
	}
	return &HandshakeError{Remote: h.c.remote, Stage: h.stage, Peer: h.key, Err: err}
}
