"""The parts of the Elasticsearch and OpenSearch sink."""
