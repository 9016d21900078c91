package discovery

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

// A list with damaged lines says all that is wrong with it at once, and gives
// what is good.
func TestDamagedLines(t *testing.T) {
	id, other := newID(t), newID(t)
	list, err := ReadList(strings.NewReader(strings.Join([]string{
		"# the usual nodes",
		"",
		"  /ip4/1.2.3.4/tcp/4001/p2p/" + id.String() + "  # the first",
		"/ip4/1.2.3.4/tcp/4001", // who?
		"/ip4/300.2.3.4/tcp/4001/p2p/" + id.String(),
		"libp2p://" + other.String() + "@seed.example:4001",
		"/dnsaddr/boot.example",
		"/dnsaddr/boot.example/p2p/" + id.String(),
		"/dnsaddr/boot.example/tcp/1",
		strings.Repeat("5", 500),
		string(nodeID(t, other)) + "@5.6.7.8:26656\t#tab",
		"/ip4/1.2.3.4/tcp/4001/p2p/" + id.String(),
		"\x00\xff",
	}, "\r\n")))
	var lines []int
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		l, ok := errors.AsType[*LineError](e)
		if !ok || l.Err == nil || len(l.Text) > 120 {
			t.Fatalf("%T %v", e, e)
		}
		lines = append(lines, l.Line)
	}
	if want := []int{4, 5, 9, 10, 13}; !slices.Equal(lines, want) {
		t.Errorf("damaged lines %v, want %v: %v", lines, want, err)
	}
	if !errors.Is(err, address.ErrPeerIDRequired) {
		t.Errorf("the cause is lost: %v", err)
	}
	if len(list.Addresses) != 4 || !slices.Equal(list.DNSAddrs, []string{"/dnsaddr/boot.example"}) {
		t.Errorf("%q", list)
	}
	infos := list.AddrInfos()
	if len(infos) != 2 || infos[0].ID != id || len(infos[0].Addrs) != 2 || infos[1].ID != other {
		t.Errorf("%v", infos)
	}
	if _, err := ParseList(nil); err != nil {
		t.Error(err)
	}
}

func TestListsAreBounded(t *testing.T) {
	lines := make([]string, 3*maxLines)
	for i := range lines {
		lines[i] = fmt.Sprintf("damaged %d", i)
	}
	for name, read := range map[string]func() (List, error){
		"parse": func() (List, error) { return ParseList(lines) },
		"read":  func() (List, error) { return ReadList(strings.NewReader(strings.Join(lines, "\n"))) },
	} {
		_, err := read()
		all := err.(interface{ Unwrap() []error }).Unwrap()
		if len(all) != maxFaults+1 || !strings.Contains(all[maxFaults].Error(), "more lines") {
			t.Errorf("%s: %d errors", name, len(all))
		}
	}
	list, err := ReadList(strings.NewReader("/dnsaddr/a.example\n" + strings.Repeat("x", 1<<20)))
	if err == nil || len(list.DNSAddrs) != 1 {
		t.Errorf("an endless line: %v, %v", list, err)
	}
	if _, err := ReadList(failing{}); !errors.Is(err, errNoName) {
		t.Errorf("%v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errNoName }

// A list is taught at the start and once an hour, without a share: a person
// wrote it.
func TestBootstrapSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list List
		for i := range 300 {
			list.Addresses = append(list.Addresses, numbered(i, fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
		}
		list.Addresses = append(list.Addresses, numbered(300, "host.example"))
		book := newBook(t, addrbook.Options{})
		s := NewBootstrap("config", list)
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{s, NewBootstrap("", List{})}})
		defer start(t, m)()
		synctest.Wait()
		if s := statsOf(t, m, "bootstrap config"); s.Added != 301 {
			t.Errorf("%+v", s)
		}
		book.Remove(list.Addresses[0])
		time.Sleep(time.Hour + time.Second)
		if s := statsOf(t, m, "bootstrap config"); s.Added != 302 || s.Known != 300 {
			t.Errorf("an hour later: %+v", s)
		}
		if s := statsOf(t, m, "bootstrap"); s.State != StateDone {
			t.Errorf("an empty list: %+v", s)
		}
	})
}

// Whatever a list says, reading it ends, costs memory in proportion, and gives
// valid addresses.
func FuzzReadList(f *testing.F) {
	f.Add("/ip4/1.2.3.4/tcp/4001/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV # x\nmemory:aa\n\n#")
	f.Add("/dnsaddr/a.example\n/dnsaddr//p2p\n/dnsaddr/\xff")
	f.Add("libp2p://12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV@h:1/quic-v1")
	f.Fuzz(func(t *testing.T, s string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		list, _ := ReadList(strings.NewReader(s))
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 200*uint64(len(s))+1<<20 {
			t.Errorf("%d bytes for %d", used, len(s))
		}
		for _, a := range list.Addresses {
			if err := a.Validate(); err != nil {
				t.Error(err)
			}
		}
		for _, n := range list.DNSAddrs {
			if _, err := NewDNSAddr(n, DNSOptions{}); err != nil {
				t.Error(err)
			}
		}
		_ = list.AddrInfos()
	})
}
