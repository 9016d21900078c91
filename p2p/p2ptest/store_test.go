package p2ptest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
)

func TestFaultyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaultyStore()
		first := f.Open()
		save := func(s p2p.Store, value string) error {
			return s.Save([]addrbook.Change{{Key: "k", Value: []byte(value)}})
		}
		want := func(value string) {
			t.Helper()
			got := ""
			if _, err := f.Open().Load(func(_ string, v []byte) { got = string(v) }); err != nil || got != value {
				t.Errorf("the store has %q (%v), want %q", got, err, value)
			}
		}
		if err := save(first, "one"); err != nil {
			t.Fatal(err)
		}
		f.FailFor(time.Minute)
		f.FailFor(time.Second) // shortens nothing
		time.Sleep(59 * time.Second)
		if err := save(first, "two"); !errors.Is(err, ErrStore) || f.Failed() != 1 {
			t.Errorf("%v, %d failures", err, f.Failed())
		}
		time.Sleep(time.Second)
		if err := save(first, "three"); err != nil {
			t.Error(err)
		}
		f.FailFor(time.Minute)
		f.Heal()
		if err := save(first, "four"); err != nil || f.Failed() != 1 {
			t.Errorf("%v, %d failures", err, f.Failed())
		}
		f.Kill()
		if err := save(first, "five"); err == nil || errors.Is(err, ErrStore) {
			t.Errorf("a dead process saved: %v", err)
		}
		want("four")
		second := f.Open()
		third := f.Open()
		if save(second, "six") == nil || save(third, "seven") != nil {
			t.Error("not the last who opened it may write")
		}
		want("seven")
	})
}
