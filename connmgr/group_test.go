package connmgr

import (
	"net/netip"
	"testing"
)

func TestAddressGroup(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1":               "192.0.0.0/16",
		"::ffff:192.0.2.1":        "192.0.0.0/16",
		"64:ff9b::c000:201":       "192.0.0.0/16",
		"2002:c000:201::5":        "192.0.0.0/16",
		"2002:7f00:1::1":          "loopback",
		"2002:a00:1::1":           "private",
		"2001:db8:1:2:3:4:5:6":    "2001:db8::/32",
		"127.0.0.1":               "loopback",
		"127.255.3.4":             "loopback",
		"::1":                     "loopback",
		"::ffff:127.0.0.1":        "loopback",
		"10.9.8.7":                "private",
		"172.31.0.1":              "private",
		"192.168.7.7":             "private",
		"fd12:3456::1":            "private",
		"169.254.1.1":             "link-local",
		"fe80::1%eth0":            "link-local",
		"100.64.0.1":              "100.64.0.0/16",
		"2001:db8:1:2:3:4:5:6%lo": "2001:db8::/32",
	} {
		if got := AddressGroup(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %q, want %q", ip, got, want)
		}
	}
	if got := AddressGroup(netip.Addr{}); got != "" {
		t.Errorf("no address: %q", got)
	}
}

// No address makes it panic, and its group does not change when it is wrapped.
func FuzzAddressGroup(f *testing.F) {
	f.Add(netip.MustParseAddr("192.0.2.1").AsSlice())
	f.Add(netip.MustParseAddr("2002:c000:201::").AsSlice())
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, _ := netip.AddrFromSlice(b)
		o := originOf(ip, AddressGroup)
		if o.known() != ip.IsValid() || ip.IsValid() && (o.group == "" || !o.prefix.Contains(o.ip)) {
			t.Errorf("%v: %+v", ip, o)
		}
		if again := originOf(o.ip, AddressGroup); again != o {
			t.Errorf("%v, then %v", o, again)
		}
		if ip.Is4() {
			if wrapped := originOf(netip.AddrFrom16(ip.As16()), AddressGroup); wrapped != o {
				t.Errorf("%v wrapped is %v", o, wrapped)
			}
		}
	})
}
