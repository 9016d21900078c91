package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// ErrKeyMalformed is matched by every error about the content of a key file.
var ErrKeyMalformed = errors.New("identity: malformed key")

const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	pemBegin     = "-----BEGIN "
)

// MarshalPEM returns the key as a key file holds it: a PKCS#8 "PRIVATE KEY" block and the "PUBLIC KEY" block that
// checks it. It holds the secret. It returns ErrNoKey for the zero key.
func (k PrivKey) MarshalPEM() ([]byte, error) {
	if k.IsZero() {
		return nil, ErrNoKey
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k.secret())
	if err != nil {
		return nil, fmt.Errorf("identity: encode key: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(k.secret().Public())
	if err != nil {
		return nil, fmt.Errorf("identity: encode key: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: priv})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: pub})...), nil
}

// ParsePEM reads what MarshalPEM writes, with LF or CRLF line ends, and nothing else: whatever is missing, added or
// changed is an error that matches ErrKeyMalformed (and ErrNotEd25519 for another type of key).
func ParsePEM(data []byte) (PrivKey, error) {
	if len(data) > maxKeyFile {
		return PrivKey{}, fmt.Errorf("%w: larger than %d bytes", ErrKeyMalformed, maxKeyFile)
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	first, rest, err := nextBlock(data, privateBlock)
	if err != nil {
		return PrivKey{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	if err != nil {
		// The parser's own text may tell of the content: the fault is enough.
		return PrivKey{}, fmt.Errorf("%w: the PRIVATE KEY block is damaged (not PKCS#8)", ErrKeyMalformed)
	}
	edKey, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return PrivKey{}, fmt.Errorf("%w: %w: it is a %T; make one with `openssl genpkey -algorithm ed25519`", ErrKeyMalformed, ErrNotEd25519, parsed)
	}
	second, rest, err := nextBlock(rest, publicBlock)
	if err != nil {
		return PrivKey{}, err
	}
	if len(rest) > 0 {
		return PrivKey{}, fmt.Errorf("%w: %d bytes too many after the PUBLIC KEY block", ErrKeyMalformed, len(rest))
	}
	key := newPrivKey(edKey)
	want, err := x509.MarshalPKIXPublicKey(edKey.Public())
	if err != nil {
		return PrivKey{}, fmt.Errorf("identity: encode key: %w", err)
	}
	if !bytes.Equal(second.Bytes, want) {
		return PrivKey{}, fmt.Errorf("%w: private and public key do not belong together (one of them is damaged)", ErrKeyMalformed)
	}
	canonical, err := key.MarshalPEM()
	if err != nil {
		return PrivKey{}, err
	}
	if !bytes.Equal(canonical, data) {
		return PrivKey{}, fmt.Errorf("%w: text is not exactly as written (headers, spaces, line breaks or base64 padding changed)", ErrKeyMalformed)
	}
	return key, nil
}

// nextBlock takes the block of type want off the front of data.
func nextBlock(data []byte, want string) (*pem.Block, []byte, error) {
	if len(data) == 0 {
		if want == publicBlock {
			return nil, nil, fmt.Errorf("%w: the PUBLIC KEY block that checks the private key is missing (truncated, or made by openssl: then append it with `openssl pkey -in FILE -pubout >> FILE`)", ErrKeyMalformed)
		}
		return nil, nil, fmt.Errorf("%w: empty", ErrKeyMalformed)
	}
	line, _, _ := strings.Cut(string(data[:min(len(data), 64)]), "\n")
	name, ok := strings.CutPrefix(line, pemBegin)
	if !ok {
		return nil, nil, fmt.Errorf("%w: where %q should begin there is something else", ErrKeyMalformed, pemBegin+want+"-----")
	}
	if name != want+"-----" && strings.HasSuffix(name, "-----") && len(name) > 5 {
		return nil, nil, fmt.Errorf("%w: found a block %q, want %q", ErrKeyMalformed, strings.TrimSuffix(name, "-----"), want)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != want {
		return nil, nil, fmt.Errorf("%w: the %s block is truncated or damaged", ErrKeyMalformed, want)
	}
	return block, rest, nil
}
