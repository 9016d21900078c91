package identity

import (
	"errors"
	"strings"
	"testing"
)

func TestSignContext(t *testing.T) {
	key := seededKey(t, 5)
	for _, context := range []string{"a", "ticket v1", strings.Repeat("~", MaxContext)} {
		for _, msg := range [][]byte{nil, []byte("m"), make([]byte, 1<<16)} {
			sig, err := key.SignContext(context, msg)
			if err != nil {
				t.Fatal(err)
			}
			pub := key.Public()
			if !pub.VerifyContext(context, msg, sig) {
				t.Errorf("%q: own signature refused", context)
			}
			if pub.VerifyContext(context+"x", msg, sig) || pub.VerifyContext(context, append([]byte{0}, msg...), sig) ||
				pub.Verify(msg, sig) || seededKey(t, 6).Public().VerifyContext(context, msg, sig) {
				t.Errorf("%q: signature accepted for something else", context)
			}
		}
	}
	for _, bad := range []string{"", strings.Repeat("a", MaxContext+1), "a\x00b", "a\n", "é", "\x7f"} {
		if _, err := key.SignContext(bad, nil); !errors.Is(err, ErrContext) {
			t.Errorf("context %q: %v", bad, err)
		}
		if key.Public().VerifyContext(bad, nil, make([]byte, 64)) {
			t.Errorf("context %q verifies", bad)
		}
	}
}
