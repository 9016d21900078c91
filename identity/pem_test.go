package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func keyText(t testing.TB, b byte) string {
	t.Helper()
	data, err := seededKey(t, b).MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// damagedKeys are texts that are no key file, with what the error must name.
func damagedKeys(t testing.TB) map[string]struct{ text, fault string } {
	good, other := keyText(t, 1), keyText(t, 2)
	cut := strings.Index(good, "-----BEGIN PUBLIC")
	private, public := good[:cut], good[cut:]
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct{ text, fault string }{
		"empty":                  {"", "empty"},
		"blank line":             {"\n", "something else"},
		"zeros":                  {strings.Repeat("\x00", 500), "something else"},
		"too large":              {good + strings.Repeat("x", maxKeyFile), "larger than"},
		"text before":            {"my key\n" + good, "something else"},
		"space before":           {" " + good, "something else"},
		"newline after":          {good + "\n", "1 bytes too many"},
		"two keys":               {good + other, "bytes too many"},
		"no public key":          {private, "openssl pkey -in FILE -pubout"},
		"public key only":        {public, `found a block "PUBLIC KEY"`},
		"public key first":       {public + private, `found a block "PUBLIC KEY"`},
		"another's public key":   {private + other[strings.Index(other, "-----BEGIN PUBLIC"):], "do not belong together"},
		"garbage between":        {private + "x\n" + public, "something else"},
		"no final newline":       {good[:len(good)-1], "not exactly as written"},
		"encrypted":              {strings.ReplaceAll(private, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY") + public, `found a block "ENCRYPTED PRIVATE KEY"`},
		"openssh":                {strings.ReplaceAll(private, "PRIVATE KEY", "OPENSSH PRIVATE KEY") + public, `found a block "OPENSSH PRIVATE KEY"`},
		"certificate":            {strings.ReplaceAll(private, "PRIVATE KEY", "CERTIFICATE") + public, `found a block "CERTIFICATE"`},
		"pem header":             {strings.Replace(good, "KEY-----\n", "KEY-----\nProc-Type: 4\n\n", 1), "not exactly as written"},
		"broken over two lines":  {good[:50] + "\n" + good[50:], "not exactly as written"},
		"not DER":                {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hello")})) + public, "not PKCS#8"},
		"empty block":            {"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n" + public, "PRIVATE KEY block"},
		"ECDSA":                  {pkcs8(ec) + public, "*ecdsa.PrivateKey"},
		"X25519":                 {pkcs8(x) + public, "*ecdh.PrivateKey"},
		"JSON of CometBFT":       {`{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"AAAA"}}`, "something else"},
		"end line of public key": {strings.Replace(good, "-----END PUBLIC KEY", "-----END PRIVATE KEY", 1), "PUBLIC KEY block is truncated or damaged"},
	}
}

func TestParsePEM(t *testing.T) {
	good := keyText(t, 1)
	for _, text := range []string{good, strings.ReplaceAll(good, "\n", "\r\n")} {
		key, err := ParsePEM([]byte(text))
		if err != nil || !key.Equal(seededKey(t, 1)) {
			t.Errorf("%q: %v, %v", text, key, err)
		}
	}
	for name, c := range damagedKeys(t) {
		key, err := ParsePEM([]byte(c.text))
		if !errors.Is(err, ErrKeyMalformed) || !key.IsZero() || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, %v; want the error to name %q", name, key, err, c.fault)
		}
	}
}

// Whatever one bit flips, whatever is cut off either end, it is an error: never a panic, never another key.
func TestParsePEMDetectsEveryFlipAndCut(t *testing.T) {
	good := []byte(keyText(t, 1))
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if key, err := ParsePEM(bad); !errors.Is(err, ErrKeyMalformed) || !key.IsZero() {
				t.Errorf("bit %d of byte %d flipped: %v, %v", bit, i, key, err)
			}
		}
		for _, bad := range [][]byte{good[:i], good[i+1:], append(bytes.Clone(good[:i]), good[i+1:]...)} {
			if key, err := ParsePEM(bad); !errors.Is(err, ErrKeyMalformed) || !key.IsZero() {
				t.Errorf("cut at %d: %v, %v", i, key, err)
			}
		}
	}
}

// openssl must read the key, know the same public key, and be able to make one that we read. Its absence is said by
// a failure: it is the other half of what the file format promises.
func TestOpenSSLReadsAndMakesTheKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	key := seededKey(t, 1)
	if err := Save(path, key); err != nil {
		t.Fatal(err)
	}
	der, err := exec.Command("openssl", "pkey", "-in", path, "-pubout", "-outform", "DER").Output()
	if err != nil {
		t.Fatalf("openssl pkey: %v", err)
	}
	if !bytes.HasSuffix(der, key.Public().Bytes()) || len(der) != 44 {
		t.Errorf("openssl reads public key %x, want %s", der, key.Public())
	}
	made := filepath.Join(t.TempDir(), "made.key")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", made).CombinedOutput(); err != nil {
		t.Fatalf("openssl genpkey: %v: %s", err, out)
	}
	if err := os.Chmod(made, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(made); !errors.Is(err, ErrKeyMalformed) || !strings.Contains(err.Error(), "-pubout >>") {
		t.Errorf("without its public key: %v", err)
	}
	pub, err := exec.Command("openssl", "pkey", "-in", made, "-pubout").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(made, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(pub); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(made); err != nil {
		t.Errorf("key made by openssl, with the command that the error named: %v", err)
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add([]byte(keyText(f, 1)))
	for _, c := range damagedKeys(f) {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParsePEM(data)
		if err != nil {
			if !errors.Is(err, ErrKeyMalformed) || !key.IsZero() {
				t.Fatalf("%v, %v", key, err)
			}
			return
		}
		back, err := key.MarshalPEM()
		if err != nil || !bytes.Equal(back, bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))) {
			t.Fatalf("%q was read, %q is written (%v)", data, back, err)
		}
	})
}
