"""The dashboard: pages about runs, live, made from their journals alone. It knows no Flower."""
