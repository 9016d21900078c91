package connmgr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// seeder answers lookups by name.
type seeder map[string][]net.IP

func (s seeder) lookup(host string) ([]net.IP, error) {
	ips, ok := s[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return ips, nil
}

func (s seeder) lookupContext(_ context.Context, host string) ([]net.IP, error) {
	return s.lookup(host)
}

func ips(all ...string) []net.IP {
	var parsed []net.IP
	for _, ip := range all {
		parsed = append(parsed, net.ParseIP(ip))
	}
	return parsed
}

func TestSeedFromDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := seeder{
			"plain.example":        ips("192.0.2.1", "2001:db8::1"),
			"x9.filtering.example": ips("192.0.2.2", "192.0.2.1", "::ffff:192.0.2.2"), // twice known
			"empty.example":        nil,
			"odd.example":          {nil, {1, 2, 3}, net.IPv4zero, net.ParseIP("ff02::1"), net.IPv4(192, 0, 2, 3)},
		}
		cfg := &SeedConfig{DefaultPort: 8333, Seeds: []DNSSeed{
			{"plain.example", false}, {"filtering.example", true}, {"empty.example", false}, {"odd.example", false}, {"unknown.example", false},
		}}
		var mu sync.Mutex
		var found []string
		SeedFromDNS(cfg, 9, dns.lookup, func(addrs []SeedAddress) {
			mu.Lock()
			defer mu.Unlock()
			if len(addrs) == 0 {
				t.Error("called with nothing")
			}
			for _, a := range addrs {
				if age := time.Since(a.LastSeen); age < 3*24*time.Hour || age > 7*24*time.Hour {
					t.Errorf("last seen %v ago", age)
				}
				found = append(found, fmt.Sprintf("%v %d", a.IP, a.Port))
			}
		})
		cfg.Seeds[0].Host = "changed.example" // after the call the configuration is the caller's
		synctest.Wait()
		slices.Sort(found)
		want := []string{"192.0.2.1 8333", "192.0.2.2 8333", "192.0.2.3 8333", "2001:db8::1 8333"}
		if !slices.Equal(found, want) {
			t.Errorf("%q, want %q", found, want)
		}
	})
}

func TestSeedNames(t *testing.T) {
	for _, c := range []struct {
		filters  bool
		services uint64
		want     string
	}{
		{false, 0x409, "seed.example"}, {true, 0x409, "x409.seed.example"}, {true, 1, "seed.example"}, {true, 1 << 63, "x8000000000000000.seed.example"},
	} {
		var asked string
		err := SeedFromDNSContext(t.Context(), &SeedConfig{Seeds: []DNSSeed{{"seed.example", c.filters}}}, c.services,
			func(_ context.Context, host string) ([]net.IP, error) { asked = host; return nil, nil }, func([]SeedAddress) {})
		if asked != c.want || err != nil {
			t.Errorf("filters %v, services %x: asked %q, %v", c.filters, c.services, asked, err)
		}
	}
}

func TestSeedingIsBounded(t *testing.T) {
	dns, cfg := seeder{}, &SeedConfig{}
	for i := range 2 * maxSeeds {
		host := fmt.Sprintf("seed%d.example", i)
		var many []net.IP
		for j := range 2 * maxSeedAnswer {
			many = append(many, net.IPv4(10, byte(i), byte(j>>8), byte(j)))
		}
		dns[host] = many
		cfg.Seeds = append(cfg.Seeds, DNSSeed{Host: host})
	}
	calls, total := 0, 0
	if err := SeedFromDNSContext(t.Context(), cfg, 1, dns.lookupContext, func(a []SeedAddress) { calls++; total += len(a) }); err != nil {
		t.Fatal(err)
	}
	if calls != maxSeeds || total != maxSeeds*maxSeedAnswer {
		t.Errorf("%d answers with %d addresses, want %d with %d", calls, total, maxSeeds, maxSeeds*maxSeedAnswer)
	}
}

// A resolver that hangs holds up nobody, and its late answer counts for nothing.
func TestSeedingEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cfg := &SeedConfig{Seeds: []DNSSeed{{Host: "slow.example"}, {Host: "quick.example"}}}
		lookup := func(host string) ([]net.IP, error) {
			if host == "slow.example" {
				<-release
			}
			return ips("192.0.2.1"), nil
		}
		calls := 0
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := SeedFromDNSContext(ctx, cfg, 1, func(_ context.Context, host string) ([]net.IP, error) { return lookup(host) }, func([]SeedAddress) { calls++ })
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute || calls != 1 {
			t.Errorf("%v after %v, %d answers", err, time.Since(start), calls)
		}

		late := make(chan struct{}, 2)
		SeedFromDNS(cfg, 1, lookup, func([]SeedAddress) { late <- struct{}{} })
		time.Sleep(seedTimeout + time.Second)
		close(release)
		synctest.Wait()
		if len(late) != 1 {
			t.Errorf("%d answers, want that of the quick seed", len(late))
		}
	})
}

func TestSeedingFaults(t *testing.T) {
	err := SeedFromDNSContext(t.Context(), &SeedConfig{Seeds: []DNSSeed{{Host: "a.example"}, {Host: "b.example"}}}, 1, seeder{}.lookupContext, func([]SeedAddress) {})
	var dns *net.DNSError
	if !errors.As(err, &dns) || !strings.Contains(err.Error(), "a.example") || !strings.Contains(err.Error(), "b.example") {
		t.Errorf("%v", err)
	}
	ok := func(context.Context, string) ([]net.IP, error) { return nil, nil }
	seed := func([]SeedAddress) {}
	for _, err := range []error{
		SeedFromDNSContext(t.Context(), nil, 1, ok, seed),
		SeedFromDNSContext(t.Context(), &SeedConfig{}, 1, nil, seed),
		SeedFromDNSContext(t.Context(), &SeedConfig{}, 1, ok, nil),
	} {
		if !errors.Is(err, ErrSeedNil) {
			t.Errorf("%v", err)
		}
	}
	if err := SeedFromDNSContext(t.Context(), &SeedConfig{}, 1, ok, seed); err != nil {
		t.Errorf("no seeds: %v", err)
	}
	SeedFromDNS(nil, 1, seeder{}.lookup, seed) // do nothing, and do not panic
	SeedFromDNS(&SeedConfig{}, 1, nil, seed)
	SeedFromDNS(&SeedConfig{}, 1, seeder{}.lookup, nil)
}
