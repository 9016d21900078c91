package state

import (
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

// digest counts the rows of a table and sums their checksums. It is kept in
// the same transaction as the rows, so that a row that damage made invisible,
// or old again, is missed when the file is opened.
type digest struct{ count, sum uint64 }

var digestBucket = []byte("digests")

func (d *digest) add(row []byte)  { d.count++; d.sum += stored(row) }
func (d *digest) drop(row []byte) { d.count--; d.sum -= stored(row) }

// stored is the checksum that a row carries, right or wrong.
func stored(row []byte) uint64 {
	if len(row) < 4 {
		return 0
	}
	return uint64(binary.BigEndian.Uint32(row))
}

func (d digest) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, d.count), d.sum)
}

func openDigest(name, row []byte) (digest, bool) {
	v, ok := unseal(name, row)
	if !ok || len(v) != 16 {
		return digest{}, false
	}
	return digest{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}, true
}

// edit is a write transaction on one table that keeps its digest.
type edit struct {
	tx   *bolt.Tx
	name []byte
	rows *bolt.Bucket
	sum  digest
}

func beginEdit(tx *bolt.Tx, name []byte) (*edit, error) {
	rows, err := tx.CreateBucketIfNotExists(name)
	if err != nil {
		return nil, err
	}
	e := &edit{tx: tx, name: name, rows: rows}
	if sums := tx.Bucket(digestBucket); sums != nil {
		if d, ok := openDigest(name, sums.Get(name)); ok {
			e.sum = d
		}
	}
	return e, nil
}

func (e *edit) put(key, value []byte) error {
	if old := e.rows.Get(key); old != nil {
		e.sum.drop(old)
	}
	row := seal(key, value)
	e.sum.add(row)
	return e.rows.Put(key, row)
}

func (e *edit) delete(key []byte) error {
	old := e.rows.Get(key)
	if old == nil {
		return nil
	}
	e.sum.drop(old)
	return e.rows.Delete(key)
}

func (e *edit) end() error {
	sums, err := e.tx.CreateBucketIfNotExists(digestBucket)
	if err != nil {
		return err
	}
	return sums.Put(e.name, seal(e.name, e.sum.encode()))
}

// recount makes the digest of a table anew.
func recount(tx *bolt.Tx, name []byte) error {
	rows := tx.Bucket(name)
	if rows == nil {
		return nil
	}
	e := edit{tx: tx, name: name}
	if err := rows.ForEach(func(_, row []byte) error {
		e.sum.add(row)
		return nil
	}); err != nil {
		return err
	}
	return e.end()
}
