package delegate

// setDefaultRoutes is filled in below.
func setDefaultRoutes(rec *Record) error { return nil }
