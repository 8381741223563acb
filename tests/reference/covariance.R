# Clustered covariances of y ~ arm * factors from clubSandwich and sandwich, and a wild bootstrap
# written as a loop over all sign changes. Run from this folder; prints the JSON of covariance.json.
suppressMessages({library(clubSandwich); library(sandwich); library(jsonlite)})

factors_of <- function(d) setdiff(names(d), c("query", "wording", "arm", "y", "train", "equal"))
load_trials <- function(name) {
  d <- read.csv(file.path("data", paste0(name, ".csv")), stringsAsFactors = FALSE)
  d <- d[!is.na(d$y), ]
  d$train <- as.numeric(d$arm == "train")
  for (f in factors_of(d)) d[[f]] <- relevel(factor(d[[f]]), "original")
  d$equal <- 1 / ave(d$y, d$arm, d$query, FUN = length)
  d
}
formula_of <- function(d) {
  factors <- factors_of(d)
  as.formula(paste("y ~ train +", paste(factors, collapse = "+"), "+",
                   paste0("train:", factors, collapse = "+")))
}
fit <- function(d, weighted) {
  if (weighted) lm(formula_of(d), d, weights = equal) else lm(formula_of(d), d)
}
plain <- function(m) { attributes(m) <- attributes(m)["dim"]; m }

# The first change of the gap, and the gap once it is made: train plus that.
change <- function(m) grep("^train:", names(coef(m)), value = TRUE)[1]
gap_after <- function(m) as.numeric(names(coef(m)) %in% c("train", change(m)))

covariances <- function(m, d) {
  kinds <- c("CR0", "CR1", "CR1S", "CR2", "CR3")
  found <- lapply(setNames(kinds, kinds), function(k) plain(as.matrix(vcovCR(m, d$query, k))))
  cr2 <- vcovCR(m, d$query, "CR2")
  after <- Wald_test(m, constraints = matrix(gap_after(m), 1), vcov = cr2, test = "HTZ")
  list(names = names(coef(m)), estimates = unname(coef(m)), matrices = found,
       satterthwaite = coef_test(m, cr2)$df_Satt, df_gap_after = after$df_denom,
       sandwich_CR1S = plain(vcovCL(m, d$query, type = "HC1", cadjust = TRUE)),
       two_way = plain(vcovCL(m, d[c("query", "wording")], type = "HC0", cadjust = TRUE)),
       two_way_clipped = plain(vcovCL(m, d[c("query", "wording")], type = "HC0", cadjust = TRUE,
                                      fix = TRUE)))
}

t_value <- function(m, d) {
  j <- change(m)
  coef(m)[[j]] / sqrt(vcovCL(m, d$query, type = "HC1", cadjust = TRUE)[j, j])
}
wild <- function(d, weighted) {
  free <- fit(d, weighted)
  bound <- update(free, paste(". ~ . - train:", factors_of(d)[1]))
  seen <- abs(t_value(free, d))
  queries <- unique(d$query)
  extreme <- 0
  for (draw in seq_len(2^length(queries)) - 1) {
    sign <- 1 - 2 * (bitwAnd(draw, 2^(seq_along(queries) - 1)) > 0)
    e <- d
    e$y <- fitted(bound) + sign[match(d$query, queries)] * (d$y - fitted(bound))
    if (abs(t_value(fit(e, weighted), e)) >= seen * (1 - 1e-9)) extreme <- extreme + 1
  }
  list(p_value = extreme / 2^length(queries), draws = 2^length(queries), statistic = t_value(free, d))
}

sets <- c("balanced", "one_at_a_time", "separated", "heterogeneous", "crossed", "unbalanced",
          "six_clusters", "fraction", "ragged")
out <- list(versions = list(R = as.character(getRversion()),
                            clubSandwich = as.character(packageVersion("clubSandwich")),
                            sandwich = as.character(packageVersion("sandwich"))))
for (name in sets) {
  d <- load_trials(name)
  both <- list(plain = covariances(fit(d, FALSE), d), equal = covariances(fit(d, TRUE), d))
  if (length(unique(d$query)) <= 10) {
    both$plain$wild <- wild(d, FALSE)
    both$equal$wild <- wild(d, TRUE)
  }
  out[[name]] <- both
}
cat(toJSON(out, digits = 15, auto_unbox = TRUE), "\n")
