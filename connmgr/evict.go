package connmgr

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// How many candidates LeastUseful protects for each merit, and that each merit
// protects at most a part of those there are, so that a small table is not
// protected as a whole. The numbers are for a table of about a hundred, as in
// Bitcoin Core, whose idea this is (src/node/eviction.cpp).
const (
	protectGroups = 4 // by address group
	protectFast   = 8 // by latency
	protectRecent = 4 // by the last useful work
	protectBusy   = 4 // by useful work in all
	protectPart   = 8 // each at most 1/8 of the candidates
)

// groupKey makes the choice of protected groups unpredictable, so that nobody
// can choose addresses that are.
var groupKey = rand.Uint64()

// LeastUseful is the default choice for Policy.Victim: who is least missed, and
// whom an attacker could not have made us choose. It sets aside who is worth
// keeping, by merits that cannot all be faked at once from a few places:
//
//   - whoever is Protected;
//   - the longest connected of each of 4 address groups, chosen by a secret
//     order of the groups;
//   - the 8 with the shortest round trips;
//   - the 4 whose last useful work is most recent, then the 4 with the most;
//   - half of the rest: those connected longest.
//
// Each merit sets aside at most an eighth of the candidates. From the address
// group with the most connections among those left, it names the youngest. It
// says false if nobody is left. It is a function of its argument, but for the
// secret order, which lasts as long as the process.
func LeastUseful(candidates []Candidate) (id uint64, ok bool) {
	return leastUseful(candidates, groupKey)
}

func leastUseful(candidates []Candidate, key uint64) (id uint64, ok bool) {
	left := make([]*Candidate, 0, len(candidates))
	for i := range candidates {
		if !candidates[i].Protected {
			left = append(left, &candidates[i])
		}
	}
	part := len(left) / protectPart
	ranks := make(map[string]uint64)
	for _, c := range left {
		if _, known := ranks[c.Group]; !known {
			ranks[c.Group] = groupRank(key, c.Group)
		}
	}
	seen := make(map[string]bool)
	firstOfGroup := func(c *Candidate) bool {
		first := !seen[c.Group]
		seen[c.Group] = true
		return first
	}
	left = setAside(left, min(protectGroups, part), firstOfGroup, func(a, b *Candidate) int {
		return cmp.Compare(ranks[a.Group], ranks[b.Group])
	})
	left = setAside(left, min(protectFast, part), func(c *Candidate) bool { return c.RTT > 0 }, func(a, b *Candidate) int {
		return cmp.Compare(a.RTT, b.RTT)
	})
	left = setAside(left, min(protectRecent, part), func(c *Candidate) bool { return !c.LastUseful.IsZero() }, func(a, b *Candidate) int {
		return b.LastUseful.Compare(a.LastUseful)
	})
	left = setAside(left, min(protectBusy, part), func(c *Candidate) bool { return c.Useful > 0 }, func(a, b *Candidate) int {
		return cmp.Compare(b.Useful, a.Useful)
	})
	left = setAside(left, (len(left)+1)/2, nil, older)

	// Of the most crowded group the youngest; of equal groups the one that has
	// the youngest.
	size := make(map[string]int)
	for _, c := range left {
		size[c.Group]++
	}
	if len(left) == 0 {
		return 0, false
	}
	return slices.MaxFunc(left, func(a, b *Candidate) int {
		return cmp.Or(cmp.Compare(size[a.Group], size[b.Group]), older(a, b))
	}).ID, true
}

// setAside returns all but the n best of those that may be set aside (nil:
// all; asked from the best on). Equals are ordered by age, so that the answer does not depend on the
// order of the candidates.
func setAside(all []*Candidate, n int, may func(*Candidate) bool, better func(a, b *Candidate) int) []*Candidate {
	slices.SortFunc(all, func(a, b *Candidate) int { return cmp.Or(better(a, b), older(a, b)) })
	return slices.DeleteFunc(all, func(c *Candidate) bool {
		if n == 0 || may != nil && !may(c) {
			return false
		}
		n--
		return true
	})
}

// older orders by age, the longest connected first.
func older(a, b *Candidate) int {
	return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
}

// groupRank is a group's place in the secret order.
func groupRank(key uint64, group string) uint64 {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, key), group...))
	return binary.BigEndian.Uint64(sum[:])
}
