package issuer

import (
	"context"
	"time"
)

const (
	minKeyLifetime = 24 * time.Hour
	maxKeyLifetime = 365 * 24 * time.Hour
	// publishedFirst is how long a key is in the JWKS before it signs of itself.
	// Verifiers on the feed need no time at all; those of other people keep a
	// JWKS for minutes or hours, and not all look again at an unknown kid.
	publishedFirst = 24 * time.Hour
)

// RotateIfDue has the next signing key take the place of the one that has
// signed for Config.KeyLifetime; else it does nothing, and costs one reading.
// However many nodes call it, a key is replaced once.
func (i *Issuer) RotateIfDue(ctx context.Context) error {
	var due bool
	err := i.store.View(ctx, func(rd Reader) (err error) {
		due, err = i.due(rd)
		return err
	})
	if err != nil || !due {
		return err
	}
	_, err = i.store.Update(ctx, func(tx Tx) error {
		if due, err := i.due(tx); err != nil || !due {
			return err // another node was faster
		}
		_, err := i.rotateKey(tx, system)
		return err
	})
	return err
}

// due says whether the current key has signed for long enough, and the next
// has been published for long enough.
func (i *Issuer) due(rd Reader) (bool, error) {
	since, published, err := turn(rd)
	return err == nil && rd.Now().Sub(since) >= i.cfg.KeyLifetime && rd.Now().Sub(published) >= publishedFirst, err
}

// turn returns since when the current key signs, and the next is published. The
// first need not be stored, because no key is ever deleted: a key signs from
// when the last of those before it was retired, or from when it was made, where
// none was left.
func turn(rd Reader) (since, published time.Time, err error) {
	all, err := rd.SigningKeys()
	if err != nil {
		return since, published, err
	}
	able, err := signing(rd)
	if err != nil {
		return since, published, err
	}
	if len(able) < 2 {
		return since, published, errNoKey
	}
	since = able[0].Created
	for _, k := range all {
		if k.Created.Before(able[0].Created) && k.Retired.After(since) {
			since = k.Retired
		}
	}
	return since, able[1].Created, nil
}

// RotateSigningKey has the next signing key take the place of the current one,
// which stays published until its tokens have expired, and returns the one that
// signs now. It is CodeConflict where the next has been published for less than
// a day, unless now is set: then verifiers that keep a JWKS may refuse tokens
// until they fetch it again.
func (i *Issuer) RotateSigningKey(ctx context.Context, by Actor, now bool) (key SigningKey, err error) {
	_, err = i.store.Update(ctx, func(tx Tx) error {
		_, published, err := turn(tx)
		if err != nil {
			return err
		}
		if ready := published.Add(publishedFirst); !now && tx.Now().Before(ready) {
			return refuse(CodeConflict, "the next key was published %v ago, and who keeps a JWKS may lack it until %s; wait until then, or rotate at once, with now, and let their verifiers refuse tokens until they fetch it",
				tx.Now().Sub(published).Truncate(time.Second), ready.UTC().Format(time.RFC3339))
		}
		key, err = i.rotateKey(tx, by)
		return err
	})
	return key, explain("signing key", err)
}

// rotateKey retires the current key, so that the next signs, and makes another
// to come after it.
func (i *Issuer) rotateKey(tx Tx, by Actor) (SigningKey, error) {
	old, err := currentKey(tx)
	if err != nil {
		return SigningKey{}, err
	}
	if err := retire(tx, old); err != nil {
		return SigningKey{}, err
	}
	if err := i.replenish(tx); err != nil {
		return SigningKey{}, err
	}
	key, err := currentKey(tx)
	if err != nil {
		return SigningKey{}, err
	}
	detail, err := compact(map[string]string{"kid": key.ID, "retired": old.ID})
	if err != nil {
		return SigningKey{}, err
	}
	return key, tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: signingKeyRotated.Name, Actor: by.Name, Address: by.Address, Detail: detail})
}

// retire has a key sign no more. Its private half goes: nothing needs it again,
// and who finds it later could still sign what is accepted until the key is no
// longer published.
func retire(tx Tx, k SigningKey) error {
	k.Retired, k.Sealed = tx.Now(), nil
	return tx.PutSigningKey(k)
}

// discardRetired takes the private halves of keys that were retired, which a
// server before this one or a backup of it may have left.
func discardRetired(tx Tx) error {
	keys, err := tx.SigningKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Retired.IsZero() || len(k.Sealed) == 0 {
			continue
		}
		k.Sealed = nil
		if err := tx.PutSigningKey(k); err != nil {
			return err
		}
	}
	return nil
}
