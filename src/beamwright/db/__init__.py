"""The database: tables, engine, claims, history, migrations. SQLAlchemy Core only."""
