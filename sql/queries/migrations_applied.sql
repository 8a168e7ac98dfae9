-- What sinks.migrate has applied: one row a migration, the last one applied where it is a view.
SELECT number, name, checksum
FROM migrations FINAL
ORDER BY number, name
